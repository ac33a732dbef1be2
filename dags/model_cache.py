"""Fetches a model into the cache of a GPU machine and verifies it, so that no run has to wait for the download."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context

from inpaint_ops_airflow.operators import plain_task


@dag(
    schedule=None,
    catchup=False,
    params={
        "model": Param(default=None, type=["null", "string"], title="Model", description="Empty: as the settings say."),
        "revision": Param(
            default=None, type=["null", "string"], title="Revision", description="The hub commit or tag."
        ),
    },
    tags=["inpaint"],
    doc_md=__doc__,
)
def model_cache() -> None:
    @plain_task(queue="gpu", retries=2, retry_delay=timedelta(minutes=1), execution_timeout=timedelta(hours=2))
    def fetch() -> str:
        """Runs in a process of its own: verifying a model imports torch, and Airflow's processes never do."""
        import subprocess
        import sys

        from airflow.sdk.exceptions import AirflowException, AirflowFailException

        from inpaint_ops.errors import one_line

        params = get_current_context()["params"]
        command = [sys.executable, "-m", "inpaint_ops.cli", "models", "pull"]
        command += [f"--revision={params['revision']}"] if params["revision"] else []
        command += ["--", params["model"]] if params["model"] else []  # after `--` no name is taken for an option
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        lines = [one_line(line) for line in done.stderr.splitlines() if line.strip()]
        print(*lines, sep="\n")
        if done.returncode == 2:
            raise AirflowFailException(lines[-1] if lines else "models pull failed without a message")
        if done.returncode != 0:
            raise AirflowException(f"models pull ended with exit code {done.returncode}")
        result = one_line(done.stdout.strip())
        print(result)
        return result

    fetch()


model_cache()
