"""The demo: real photos, real storage, real Airflow, a small model of our own."""
