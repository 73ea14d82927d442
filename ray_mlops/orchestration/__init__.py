"""The loop: pipeline, deployment, retraining."""
