"""Imported by every interpreter of a machine with pretended cards: its workers lease these, and paint on the processor.

A worker refuses a leased GPU that torch does not see (`worker/setup.py`), which here is each of them.
"""

import importlib.abc
import importlib.machinery
import sys


class _AfterSetup(importlib.abc.MetaPathFinder):
    """Has the worker's setup describe the processor, once its module has been imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "inpaint_ops.worker.setup":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module._describe_device = lambda job, slot: module.device.describe("cpu")

        spec.loader.exec_module = exec_module
        return spec


if "inpaint_ops.worker" in sys.orig_argv:
    sys.meta_path.insert(0, _AfterSetup())
