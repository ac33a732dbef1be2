"""The demo: real photos, real storage, real Airflow, a tiny model with random weights."""
