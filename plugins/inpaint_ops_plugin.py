"""For Airflow's plugins folder: the pages, where the installed package does not bring them by its entry point already.

Airflow loads this folder before the entry points. It would keep the first plugin of a name and report the second one
as an import error, so this file offers the plugin only where the entry point does not.
"""

from importlib.metadata import entry_points

if not any(
    entry.value == "inpaint_ops_airflow.plugin:InpaintPlugin" for entry in entry_points(group="airflow.plugins")
):
    from inpaint_ops_airflow.plugin import InpaintPlugin as InpaintPlugin
