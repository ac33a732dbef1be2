"""What a worker is given of this machine: variables by their exact names, and a user of its own where there is root."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.errors import ConfigError

PASSED_ON: Mapping[str, tuple[str, ...]] = {
    "the system": tuple(
        "PATH HOME USER LOGNAME LANG LC_ALL LC_CTYPE TZ TMPDIR LD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV "
        "XDG_CACHE_HOME CC CXX".split()
    ),
    "the model cache, this package": tuple("HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE INPAINT_CPU_SLOTS".split()),
    "NVIDIA's container runtime and libraries": tuple(
        "NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES NVIDIA_DISABLE_REQUIRE NVIDIA_REQUIRE_CUDA "
        "NVIDIA_MIG_MONITOR_DEVICES NVIDIA_MIG_CONFIG_DEVICES NVIDIA_TF32_OVERRIDE".split()
    ),
    "CUDA, cuBLAS, cuDNN": tuple(
        "CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_HOME CUDA_PATH CUDA_CACHE_PATH CUDA_CACHE_DISABLE "
        "CUDA_CACHE_MAXSIZE CUDA_FORCE_PTX_JIT CUDA_DISABLE_PTX_JIT CUDA_LAUNCH_BLOCKING CUDA_MODULE_LOADING "
        "CUDA_DEVICE_MAX_CONNECTIONS CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY "
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE CUDA_MPS_PINNED_DEVICE_MEM_LIMIT CUBLAS_WORKSPACE_CONFIG "
        "CUBLASLT_WORKSPACE_SIZE CUDNN_LOGLEVEL_DBG CUDNN_LOGDEST_DBG".split()
    ),
    "OpenMP (GNU's and Intel's), MKL, oneDNN, OpenBLAS": tuple(
        "OMP_NUM_THREADS OMP_THREAD_LIMIT OMP_DYNAMIC OMP_NESTED OMP_MAX_ACTIVE_LEVELS OMP_SCHEDULE OMP_STACKSIZE "
        "OMP_PROC_BIND OMP_PLACES OMP_WAIT_POLICY OMP_DISPLAY_ENV GOMP_CPU_AFFINITY GOMP_SPINCOUNT GOMP_STACKSIZE "
        "KMP_AFFINITY KMP_BLOCKTIME KMP_SETTINGS KMP_DUPLICATE_LIB_OK KMP_HW_SUBSET KMP_STACKSIZE "
        "MKL_NUM_THREADS MKL_DYNAMIC MKL_DOMAIN_NUM_THREADS MKL_CBWR MKL_ENABLE_INSTRUCTIONS MKL_VERBOSE "
        "MKL_THREADING_LAYER MKL_INTERFACE_LAYER MKL_SERVICE_FORCE_INTEL "
        "ONEDNN_MAX_CPU_ISA ONEDNN_VERBOSE ONEDNN_DEFAULT_FPMATH_MODE OPENBLAS_NUM_THREADS".split()
    ),
    "PyTorch": tuple(
        "PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF PYTORCH_NO_CUDA_MEMORY_CACHING PYTORCH_NVML_BASED_CUDA_CHECK "
        "PYTORCH_JIT TORCH_HOME TORCH_LOGS TORCH_LOGS_OUT TORCH_LOGS_FORMAT TORCH_TRACE TORCH_CPP_LOG_LEVEL "
        "TORCH_SHOW_CPP_STACKTRACES TORCH_DISABLE_ADDR2LINE TORCH_SYMBOLIZE_MODE TORCH_CUDNN_V8_API_DISABLED "
        "TORCH_CUDNN_V8_API_DEBUG TORCH_CUDNN_USE_HEURISTIC_MODE_B TORCH_CUDNN_SDPA_ENABLED "
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE TORCH_BLAS_PREFER_CUBLASLT TORCH_LINALG_PREFER_CUSOLVER "
        "TORCH_NUM_THREADS TORCH_COMPILE_DEBUG TORCH_COMPILE_DEBUG_DIR TORCH_COMPILE_DISABLE TORCH_COMPILE_BACKEND "
        "TORCHDYNAMO_DISABLE TORCHDYNAMO_VERBOSE TORCH_CUDA_ARCH_LIST TORCH_EXTENSIONS_DIR".split()
    ),
    "Inductor": tuple(
        "TORCHINDUCTOR_CACHE_DIR TORCHINDUCTOR_FX_GRAPH_CACHE TORCHINDUCTOR_AUTOGRAD_CACHE "
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES TORCHINDUCTOR_COMPILE_THREADS TORCHINDUCTOR_WORKER_START "
        "TORCHINDUCTOR_MAX_AUTOTUNE TORCHINDUCTOR_MAX_AUTOTUNE_GEMM TORCHINDUCTOR_MAX_AUTOTUNE_GEMM_BACKENDS "
        "TORCHINDUCTOR_MAX_AUTOTUNE_CONV_BACKENDS TORCHINDUCTOR_MAX_AUTOTUNE_GEMM_SEARCH_SPACE "
        "TORCHINDUCTOR_MAX_AUTOTUNE_POINTWISE TORCHINDUCTOR_AUTOTUNE_IN_SUBPROC TORCHINDUCTOR_AUTOTUNE_MULTI_DEVICE "
        "TORCHINDUCTOR_COORDINATE_DESCENT_TUNING TORCHINDUCTOR_COORDINATE_DESCENT_RADIUS TORCHINDUCTOR_FREEZING "
        "TORCHINDUCTOR_CUDAGRAPHS TORCHINDUCTOR_LAYOUT_OPTIMIZATION TORCHINDUCTOR_FORCE_LAYOUT_OPT "
        "TORCHINDUCTOR_SHAPE_PADDING TORCHINDUCTOR_PERMUTE_FUSION TORCHINDUCTOR_USE_FAST_MATH "
        "TORCHINDUCTOR_DETERMINISTIC TORCHINDUCTOR_BENCHMARK_FUSION TORCHINDUCTOR_UNIQUE_KERNEL_NAMES "
        "TORCHINDUCTOR_PROFILE TORCHINDUCTOR_CPP_WRAPPER TORCHINDUCTOR_CPP_MARCH "
        "TORCHINDUCTOR_CPP_DYNAMIC_THREADS TORCHINDUCTOR_CPP_MIN_CHUNK_SIZE TORCHINDUCTOR_VEC_ISA_OK "
        "TORCHINDUCTOR_CUTLASS_DIR".split()
    ),
    "Triton": tuple(
        "TRITON_CACHE_DIR TRITON_HOME TRITON_DUMP_DIR TRITON_OVERRIDE_DIR TRITON_KERNEL_DUMP TRITON_ALWAYS_COMPILE "
        "TRITON_DEBUG TRITON_INTERPRET TRITON_DISABLE_LINE_INFO TRITON_PRINT_AUTOTUNING TRITON_CACHE_AUTOTUNING "
        "TRITON_PTXAS_PATH TRITON_CUOBJDUMP_PATH TRITON_NVDISASM_PATH TRITON_LIBCUDA_PATH TRITON_LIBDEVICE_PATH "
        "TRITON_CACHE_MANAGER".split()
    ),
    "xFormers": tuple(
        "XFORMERS_MORE_DETAILS XFORMERS_ENABLE_TRITON XFORMERS_FORCE_DISABLE_TRITON "
        "XFORMERS_IGNORE_FLASH_VERSION_CHECK XFORMERS_TILED_MATMUL_ENABLE_TRITON XFORMERS_CUSPARSELT_TUNE "
        "XFORMERS_BENCHMARKS_CACHE".split()
    ),
    "NCCL": tuple(
        "NCCL_DEBUG NCCL_DEBUG_FILE NCCL_DEBUG_SUBSYS NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_SHM_DISABLE "
        "NCCL_IB_DISABLE NCCL_SOCKET_IFNAME NCCL_CUMEM_ENABLE".split()
    ),
}  # fmt: skip
"""The variables of this process that a worker gets as well, by whose they are. No pattern, no prefix: a name that
merely looks like one of these (NVIDIA_API_KEY, TORCH_HUB_TOKEN) may be a secret."""

_NAMES = frozenset(name for names in PASSED_ON.values() for name in names)
_ALWAYS = {
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def worker_environment(environ: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
    """The environment of a worker: of `environ` the names of PASSED_ON and those that somebody added (`also`)."""
    return {name: value for name, value in environ.items() if name in _NAMES or name in also} | _ALWAYS


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that workers run as, in place of root; `groups` begins with the main one."""

    user: int
    groups: tuple[int, ...]
    name: str = ""

    def environment(self, home: Path, environ: Mapping[str, str]) -> dict[str, str]:
        """What must differ in such a worker's environment: it may not look into root's home.

        The model cache stays where this process has it; it must be readable to that user.
        """
        cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return {
            "HOME": str(home),
            "USER": self.name or str(self.user),
            "LOGNAME": self.name or str(self.user),
            "HF_HOME": environ.get("HF_HOME") or str(cache / "huggingface"),
        }

    def give(self, folder: Path) -> None:
        """Make `folder`, which is ours, that user's alone, and let it be reached. Raises OSError."""
        for above in (folder.parent, folder.parent.parent):
            status = above.stat()
            if status.st_uid == os.geteuid() and status.st_mode & 0o011 != 0o011:
                above.chmod(status.st_mode & 0o7777 | 0o011)
        os.chown(folder, self.user, self.groups[0])
        folder.chmod(0o700)


def identity(text: str) -> Identity | None:
    """Who `text` (INPAINT_WORKER_USER: `user`, `user:group`, names or numbers) is; None for an empty one.

    Raises ConfigError where there is no such user, it is root, or this process is not root and so cannot become it.
    """
    if not text:
        return None
    wanted, _, group = text.partition(":")
    try:
        known = pwd.getpwuid(int(wanted)) if wanted.isdecimal() else pwd.getpwnam(wanted)
        user, main, name = known.pw_uid, known.pw_gid, known.pw_name
    except (KeyError, OverflowError):
        if not (wanted.isdecimal() and group) or int(wanted) >= 2**32 - 1:
            raise ConfigError(f"INPAINT_WORKER_USER: there is no user {wanted!r}") from None
        user, main, name = int(wanted), 0, ""
    if group:
        try:
            main = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise ConfigError(f"INPAINT_WORKER_USER: there is no group {group!r}") from None
    if user == 0:
        raise ConfigError("INPAINT_WORKER_USER: it must not be root")
    if os.geteuid() != 0:
        raise ConfigError("INPAINT_WORKER_USER: only root can start a worker as another user; leave it empty")
    more = os.getgrouplist(name, main) if name else []
    return Identity(user, (main, *(one for one in more if one != main)), name)
