"""Evidence, pure: counts on frozen bins, distances, e-processes, confidence sequences, bootstrap.

``log_e`` is everywhere the natural logarithm of an e-process, the wealth of a gambler who bets against a null
hypothesis: ``log_e >= log(1 / alpha)`` rejects it at level ``alpha``, however often one looks.

Read ``bins`` first, then ``counts`` (two arms), ``betting`` (bounded means), ``windows`` and ``rows`` (drift), and
``accumulate`` (alarms over time and over columns).
"""

from ray_mlops.statistics.accumulate import RestartMixture, ShiryaevRoberts, combine, e_bh
from ray_mlops.statistics.betting import (
    BetAboveMean,
    log_e_difference,
    log_e_mean_above,
    log_e_mean_below,
    log_e_paired_noninferiority,
    log_e_paired_regression,
)
from ray_mlops.statistics.bins import Bins, CategoricalBins, ColumnCounts, NumericBins, bins_from_json
from ray_mlops.statistics.bootstrap import BootstrapInterval, bootstrap_interval, bootstrap_mean, paired_bootstrap
from ray_mlops.statistics.confidence import (
    Interval,
    betting_interval,
    empirical_bernstein_interval,
    error_upper_bound,
    paired_interval,
)
from ray_mlops.statistics.counts import (
    log_e_noninferiority,
    log_e_regression,
    log_e_score_shift,
    sample_ratio_log_e,
)
from ray_mlops.statistics.losses import bounded_loss, brier_rows, log_loss_rows
from ray_mlops.statistics.rows import RowBets
from ray_mlops.statistics.windows import conformal_log_e, t_log_e

__all__ = [
    "BetAboveMean",
    "Bins",
    "BootstrapInterval",
    "CategoricalBins",
    "ColumnCounts",
    "Interval",
    "NumericBins",
    "RestartMixture",
    "RowBets",
    "ShiryaevRoberts",
    "betting_interval",
    "bins_from_json",
    "bootstrap_interval",
    "bootstrap_mean",
    "bounded_loss",
    "brier_rows",
    "combine",
    "conformal_log_e",
    "e_bh",
    "empirical_bernstein_interval",
    "error_upper_bound",
    "log_e_difference",
    "log_e_mean_above",
    "log_e_mean_below",
    "log_e_noninferiority",
    "log_e_paired_noninferiority",
    "log_e_paired_regression",
    "log_e_regression",
    "log_e_score_shift",
    "log_loss_rows",
    "paired_bootstrap",
    "paired_interval",
    "sample_ratio_log_e",
    "t_log_e",
]
