"""Evidently: its data drift preset, as a dictionary."""

from importlib.metadata import version

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
from timed import main


def report(reference: pd.DataFrame, current: pd.DataFrame) -> object:
    return Report([DataDriftPreset()]).run(current, reference).dict()


main(version("evidently"), pd.read_parquet, report)
