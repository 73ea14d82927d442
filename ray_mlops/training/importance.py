"""How much a model needs each raw column, for the weights that its drift evidence gets."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.statistics.losses import bounded_loss
from ray_mlops.training.bundle import ModelBundle

SAMPLE_ROWS = 3000


def feature_importance(
    bundle: ModelBundle,
    table: pa.Table,
    target: npt.NDArray[np.float64],
    *,
    rows: int = SAMPLE_ROWS,
    seed: int = 0,
) -> dict[str, float]:
    """Measure by how much the bounded loss rises when one column's values are shuffled over the rows.

    Args:
        bundle: The model and its features.
        table: Raw rows, as many as there are targets; validation rows, not those that it was trained on.
        target: Encoded targets [n].
        rows: Size of the sample that is looked at.
        seed: Of the sample and the shuffles.

    Returns:
        A share for each raw column, in [0, 1], adding up to 1. A column whose shuffling makes the loss better has 0;
        if that is so for all of them, they share alike.

    References:
        Breiman: Random Forests. Machine Learning 45, 2001, https://doi.org/10.1023/A:1010933404324, section 10.
        Fisher, Rudin, Dominici: All Models are Wrong, but Many are Useful. JMLR 20, 2019. Columns that say the same
        share their importance, or hide each other's.
    """
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(len(table), min(rows, len(table)), replace=False))
    sample, truth = bundle.features.canonical_table(table).take(pa.array(chosen)), target[chosen]
    base = _mean_loss(bundle, sample, truth)
    rises = {}
    for position, name in enumerate(sample.column_names):
        shuffled = sample[name].take(pa.array(generator.permutation(len(sample))))
        changed = sample.set_column(position, sample.schema.field(position), shuffled)
        rises[name] = max(0.0, _mean_loss(bundle, changed, truth) - base)
    total = sum(rises.values())
    return {name: rise / total if total > 0 else 1.0 / len(rises) for name, rise in rises.items()}


def _mean_loss(bundle: ModelBundle, table: pa.Table, target: npt.NDArray[np.float64]) -> float:
    prediction = bundle.predict(table)
    return float(bounded_loss(bundle.task, prediction.values, target, bundle.loss_scale).mean())
