"""The pages "Inpainting" in Airflow: FastAPI over `inpaint_ops.browse`, each route guarded by Airflow's own rights."""
