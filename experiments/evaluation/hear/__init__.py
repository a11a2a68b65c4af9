"""The HEAR 2021 benchmark: its 19 tasks, its predictor, its scores."""
