"""whylogs: profiles of both tables, and its drift scores between them."""

from importlib.metadata import version

import pandas as pd
import whylogs
from timed import main
from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores


def report(reference: pd.DataFrame, current: pd.DataFrame) -> object:
    before, after = (whylogs.log(pandas=table).view() for table in (reference, current))
    return calculate_drift_scores(target_view=after, reference_view=before, with_thresholds=True)


main(version("whylogs"), pd.read_parquet, report)
