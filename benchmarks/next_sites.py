"""Which sites teach most? Sites that ``misoxr.sampling.next_sites`` chooses, added to training, on SIMULATED landscapes.

    python benchmarks/next_sites.py 14-16 [--model vote-neighbourhood] [--sites 100] [--seeds 3] [--store demo/next_sites] [--csv FILE]

Landscapes, 800 points along roads and a river, and remote pixels are those of ``landscapes.py``. A model of the points maps the landscape; each method
chooses so many sites on dry ground from the covariates and that map; they get the true labels; a model of points and sites answers at the remote pixels.
Methods compare in pairs of landscape and seed, with errors over landscapes (a landscape's seeds averaged first).

Landscapes 11 to 13 chose the default, 14 to 16 confirm it. With ``--store``, fits that are there are not run again.
"""

import argparse
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from experiment import workers
from landscapes import numbers
from spatial_cv_simulated import World, world

from misoxr.points.folds import PredefinedFolds
from misoxr.sampling import next_sites
from misoxr.spec import SOIL_ORDERS

METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "clhs": {"method": "clhs"},
    "kmeans": {"method": "kmeans"},
    "kmeans, weighed": {"method": "kmeans", "weight": ["permafrost_probability", "taxonomy_probability"]},
    "uncertainty": {"method": "uncertainty"},
}
JUDGED = [("permafrost", "macro_f1"), ("taxonomy", "macro_f1")]


def labelled(sites: gpd.GeoDataFrame, truth: xr.Dataset) -> gpd.GeoDataFrame:
    """Give sites the true labels."""
    places = {axis: xr.DataArray(getattr(sites.geometry, axis).to_numpy(), dims="site") for axis in ("x", "y")}
    here = truth[["permafrost", "taxonomy"]].sel(**places, method="nearest")
    orders = np.asarray(SOIL_ORDERS, dtype=object)[here.taxonomy.to_numpy()]
    return gpd.GeoDataFrame(
        {"permafrost": here.permafrost.to_numpy().astype(float), "taxonomy": orders}, geometry=sites.geometry, crs=sites.crs
    )


def remote_scores(one: World, sites: gpd.GeoDataFrame | None, model: str, store: Path | None, client: Any) -> pd.Series:
    """Score at the remote pixels a model of the points and of sites."""
    known = one.everything.iloc[: -len(one.far)]
    train = known if sites is None else pd.concat([known, labelled(sites, one.truth)], ignore_index=True)
    everything = pd.concat([train, one.far], ignore_index=True)
    cv = PredefinedFolds([(np.arange(len(train)), np.arange(len(train), len(everything)))])
    found = one.cube.miso.cross_validate({model: model}, everything, cv=cv, store=store, client=client, progress=False).summary()
    return found.loc[model, [f"{task} {metric}" for task, metric in JUDGED]]


def one_landscape(
    number: int, model: str, count: int, seeds: int, methods: list[str], store: Path | None, client: Any
) -> pd.DataFrame:
    """Tabulate the scores of each method and seed, and of the points alone."""
    one = world(number, 800, 1500)
    fitted = one.cube.miso.fit("vote-neighbourhood", one.points)
    maps = one.cube.miso.predict(fitted).compute()
    dry = one.cube.where(one.truth.surface == 0).merge(maps)
    rows = []
    for name in ("points alone", *methods):
        for seed in range(seeds if name != "points alone" else 1):
            folder = None if store is None else store / model / f"landscape_{number}" / f"{name.replace(' ', '_')}_{count}_{seed}"
            sites = (
                None if name == "points alone" else next_sites(dry, count, existing=one.points, random_state=seed, **METHODS[name])
            )
            found = remote_scores(one, sites, model, folder, client)
            rows.append({"landscape": number, "method": name, "seed": seed, **found})
            print(f"{number} {name} {seed}: {found.round(4).to_dict()}", flush=True)
    return pd.DataFrame(rows)


def tabulated(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate means over landscapes, and differences to the other methods in pairs, with errors over landscapes."""
    scores = [f"{task} {metric}" for task, metric in JUDGED]
    each = table.groupby(["landscape", "method"], sort=False)[scores].mean().unstack("landscape")
    rows = []
    for ours in each.index:
        for other in each.index:
            for score in scores:
                lead = each.loc[ours, score] - each.loc[other, score]
                told = {"mean": each.loc[ours, score].mean(), "less": other, "lead": lead.mean()}
                rows.append({"score": score, "method": ours, **told, "lead_error": lead.std(ddof=1) / len(lead) ** 0.5})
    return pd.DataFrame(rows).query("method != less")


def main(
    landscapes: list[int],
    model: str,
    count: int,
    seeds: int,
    methods: list[str],
    store: Path | None,
    csv: Path | None,
    processes: int,
) -> None:
    """Run, and print the table."""
    with workers(processes) as client:
        table = pd.concat([one_landscape(number, model, count, seeds, methods, store, client) for number in landscapes])
    print(
        f"\nSIMULATED. {count} sites added to 800 points, scored at remote pixels; leads with errors over {len(landscapes)} landscapes, {model}"
    )
    found = tabulated(table)
    print(found.to_string(index=False, float_format="%.4f"))
    if csv is not None:
        found.round(4).to_csv(csv, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("landscapes", type=numbers)
    parser.add_argument("--model", default="vote-neighbourhood")
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    main(given.landscapes, given.model, given.sites, given.seeds, given.methods, given.store, given.csv, given.workers)
