"""inpaint_ops in Airflow: the pages, the links, the operators and the metrics that the DAGs in `dags/` use.

Installed with the project: Airflow finds the plugin by the entry point `airflow.plugins`. Airflow's processes import
these modules, so they stay light: `inpaint_ops` is imported inside the functions that need it, torch never.
"""
