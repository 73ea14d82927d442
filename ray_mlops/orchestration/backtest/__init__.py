"""Backtests of the retraining policy: what it would have done with a history, and what that would have cost."""
