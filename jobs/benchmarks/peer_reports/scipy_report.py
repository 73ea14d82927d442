"""scipy: Kolmogorov-Smirnov and Wasserstein of numbers, chi-squared of categories."""

import numpy as np
import pandas as pd
import scipy
from scipy.stats import chi2_contingency, ks_2samp, wasserstein_distance
from timed import main


def report(reference: pd.DataFrame, current: pd.DataFrame) -> object:
    found = {}
    for name in reference.columns:
        before, after = reference[name].dropna(), current[name].dropna()
        if before.dtype.kind == "f":
            first, second = before.to_numpy(), after.to_numpy()
            found[name] = ks_2samp(first, second, method="asymp").pvalue, wasserstein_distance(first, second)
        else:
            counts = pd.concat([before.value_counts(), after.value_counts()], axis=1).fillna(0.0)
            found[name] = chi2_contingency(np.asarray(counts).T).pvalue
    return found


main(scipy.__version__, pd.read_parquet, report)
