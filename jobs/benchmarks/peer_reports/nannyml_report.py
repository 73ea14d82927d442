"""NannyML: univariate drift with its default method, in ten chunks."""

from importlib.metadata import version

import nannyml
import pandas as pd
from timed import main


def report(reference: pd.DataFrame, current: pd.DataFrame) -> object:
    calculator = nannyml.UnivariateDriftCalculator(column_names=list(reference.columns), chunk_number=10)
    return calculator.fit(reference).calculate(current).to_df()


main(version("nannyml"), pd.read_parquet, report)
