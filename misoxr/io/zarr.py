"""Write a dataset to Zarr block by block, and resume it where it stopped, by one process or several."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dask.base
import dask.multiprocessing
import numpy as np
import xarray as xr
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from misoxr._version import __version__
from misoxr.clusters import in_task, is_closed, while_open
from misoxr.errors import MisoxrError, StoreError
from misoxr.grid.geobox import geobox_of
from misoxr.grid.geozarr import unreferenced
from misoxr.io.blocks import Runner, Target, runner_of, write_blocks
from misoxr.io.check import METADATA, seal
from misoxr.io.icechunk import to_repository
from misoxr.io.layout import FINGERPRINT, Layout, consolidate, lay_out, layout_of, with_masked
from misoxr.io.mend import forget_damaged, lost, mend_layout
from misoxr.io.origins import Disk, Files, reads_from, writable
from misoxr.io.replace import aside, differences, end_move, located, put_in_place, refuse_busy, refuse_different
from misoxr.io.storable import spelt
from misoxr.records.bars import Bar
from misoxr.records.ledger import FORMAT, Ledger, progress_of
from misoxr.records.writers import ended, move_through, system_of, unreachable

if TYPE_CHECKING:
    from icechunk import Repository

__all__ = ["to_zarr", "write"]

GRID = ("y", "x", "spatial_ref")
"""Coordinates that the grid makes."""
ELSEWHERE = ("provenance", "provenance_sha256")
"""Attributes of the dataset that stand in another part of a plan."""
TIMES = ("history", "date_created", "date_modified", "date_issued", "date_metadata_modified", "created", "updated")
"""Attributes that say when something was made."""
FEW = 100
"""The most values of a table that a plan holds as they are."""


def to_zarr(
    ds: xr.Dataset,
    store: "str | os.PathLike[str] | Repository",
    *,
    overwrite: bool = False,
    resume: bool = True,
    progress: bool = True,
    on_error: Literal["raise", "mask"] = "raise",
    compact: bool = False,
    client: Any = None,
    resources: Mapping[str, float] | None = None,
) -> None:
    """Compute a dataset block by block and write it as a Zarr v3 group. Called again, it does what is left.

    The store is laid out first. Then blocks, which are the dataset's chunks, are written as they finish. A record beside the store, in
    ``<store>.progress``, says that a block is done. Several processes, on one machine or on many, may write one store at the same time, each with
    the same call. Every call returns when the whole store is written.

    What was there before the call is read again, when all is written: blocks of which a chunk is missing or damaged are computed again. Chunks
    carry checksums, and metadata have hashes; :func:`misoxr.check` reads both.

    The store opens with plain ``xr.open_zarr``, rioxarray and odc-geo. It has CF ``spatial_ref`` and ``grid_mapping``, and the GeoZarr
    conventions ``proj`` and ``spatial``.

    Parameters
    ----------
    ds : Dataset
        Lazy or not, on a grid with CRS.
    store : str, path or icechunk.Repository
        A local path or a URL of fsspec (``s3://``, ``gs://``, ``memory://``, ...; also of obstore, after ``obstore.fsspec.register``). Or an
        Icechunk repository, whose root the map becomes: each batch of blocks is one commit to the branch ``main``, and one process writes at a
        time.
    overwrite : bool, optional
        Replace a Zarr store that exists, once the new one is written beside it.
    resume : bool, optional
        Continue a store that this function began. If False, a store that exists is an error.
    progress : bool, optional
        Show one bar: what is done before the first block, the blocks, and the end.
    on_error : {"raise", "mask"}, optional
        What to do when an asset of a block cannot be read: raise, or write nodata and record the block in the store's attribute
        ``masked_blocks``, with rows, columns and the reason. A later call with "raise" tries such blocks again.
    compact : bool, optional
        Store probabilities (``..._probability``) as uint8 with CF ``scale_factor`` and ``_FillValue``: a quarter of the size, at most 0.002 off.
        Values outside 0 to 1 are an error.
    client : distributed.Client, optional
        Where to compute. By default the active client, or Dask's local scheduler where there is none; inside a task of a cluster, the threads of
        its worker's process. A cluster that has no worker yet is waited for.
    resources : mapping, optional
        Resources of workers, with a client: ``{"GPU": 1}`` sends blocks to workers that were started with it.

    Raises
    ------
    StoreError
        If the store exists and was begun with other input, model, settings, coordinates or attributes; is to be replaced and is not a Zarr store;
        or cannot be written. Also if another process commits to the same part of a repository meanwhile, or if values do not fit ``compact`` or a
        class map. What is written stays valid.
    GridError
        If the dataset has no regular grid or CRS.
    AssetError
        If an asset cannot be read.

    Notes
    -----
    Values are written as they are, with three exceptions. Floats are NaN where they equal a fill value of their own. Class maps that are floats
    are written as codes where they are known to be codes. What Zarr cannot hold, such as an ``Affine`` among the attributes, is left out with a
    warning. The provenance goes to the attributes of the group ``provenance``.

    Examples
    --------
    >>> maps.miso.to_zarr("maps.zarr")
    >>> maps.miso.to_zarr("maps.zarr")  # all is there, so nothing is computed
    """
    settings: Any = {"overwrite": overwrite, "resume": resume, "on_error": on_error, "compact": compact}
    with Bar("to_zarr", "blocks", shown=progress, stage="planning") as bar:
        write(ds, store, bar, client=client, resources=resources, **settings)


def write(
    ds: xr.Dataset,
    store: "str | os.PathLike[str] | Repository",
    bar: Bar,
    *,
    overwrite: bool = False,
    resume: bool = True,
    on_error: str = "raise",
    compact: bool = False,
    client: Any = None,
    resources: Mapping[str, float] | None = None,
) -> None:
    """Write a dataset as :func:`to_zarr` does, within a bar that is there."""
    client = client or _active_client()
    _refuse(on_error, resources, client)
    closed = StoreError(
        "The client was closed before all blocks were written. Start one, and call again: blocks that are written are kept."
    )
    with while_open(client, closed):
        _have_a_worker(client, resources)
        layout = layout_of(ds, compact=compact)
        for name in layout.blocked if on_error == "mask" else ():
            layout.nodata(name)
        plan, runner = _plan(layout, client, compact=compact), runner_of(client, resources)
        settings: Any = {"overwrite": overwrite, "resume": resume, "mask": on_error == "mask"}
        if isinstance(store, str | os.PathLike):
            _to_store(store, layout, plan, runner, bar, client, **settings)
        else:
            _reach(client, layout)
            to_repository(store, layout, plan, runner, bar, **settings)


def _to_store(
    store: str | os.PathLike[str],
    layout: Layout,
    plan: Mapping[str, Any],
    runner: Runner,
    bar: Bar,
    client: Any,
    *,
    overwrite: bool,
    resume: bool,
    mask: bool,
) -> None:
    """Write a dataset to a store, or do what is left."""
    uri, system, path = located(store)
    if isinstance(system, MemoryFileSystem) and _computes_elsewhere(client):
        raise StoreError(
            f"The store {uri} lies in the memory of this process, and its blocks are computed in other processes, which cannot write there; give "
            "a path or the URL of a bucket."
        )
    if not overwrite and reads_from(layout.ds, uri):
        raise StoreError(
            f"You opened this very store: the dataset is read from {uri}, onto which it would be written. If you have changed nothing, there "
            "is nothing to write. Otherwise give another path, or overwrite=True, which puts the new store in its place when it is finished."
        )
    bar.stage("looking at what is there")
    try:
        end_move(uri)
        target = _target(uri, system, path, overwrite=overwrite)
        ledger = Ledger(progress_of(target))
        _begin(ledger, plan, target, resume=resume, replaces=target != uri)
        with ledger.alive():
            found = ledger.agree(plan, lambda: _lay_out(layout, target, plan["fingerprint"], ledger))
            refuse_different(f"The store {target}", differences(found, plan))
            place = Target(target, layout, ledger)
            before, files = ledger.done(), Files(writable(target, ledger.own))
            mended = mend_layout(files, layout, plan["fingerprint"])
            with _staged(client, ledger, layout):
                there = write_blocks(place, runner, bar, mask=mask)
                if there and before:
                    bar.stage("reading what was there before")
                if there and forget_damaged(files, layout, ledger, before):
                    there = write_blocks(place, runner, bar, mask=mask)
            if not there and not Ledger(progress_of(uri), edition=ledger.edition).current():
                raise ended(ledger.uri)
            bar.stage("sealing")
            if there and target == uri:
                if mended or not ledger.finished() or ledger.done() != before:
                    _finish(layout, target, ledger)
                ledger.close()
            elif there:
                put_in_place(uri, lambda: _finish(layout, target, ledger), ledger)
        bar.stage()
    except MisoxrError:
        raise
    except unreachable() as error:
        raise StoreError(f"The store {uri} cannot be written: {error}") from error


# ---- what is asked for, and whether it goes with what is there


def _refuse(on_error: str, resources: Any, client: Any) -> None:
    if on_error not in ("raise", "mask"):
        raise StoreError(f"on_error is {on_error!r}; use 'raise' or 'mask'.")
    if client is not None and not hasattr(client, "scheduler_info"):
        raise StoreError(f"client is a {type(client).__name__}; give a distributed.Client.")
    if is_closed(client):
        raise StoreError("The client is closed; give one that runs, or leave client out to compute here.")
    if resources and client is None:
        raise StoreError(f"resources={dict(resources)} are those of a cluster's workers, and there is no client; start one first.")


def _have_a_worker(client: Any, resources: Any) -> None:
    """Wait for a cluster's first worker, which an adaptive cluster starts for a task: workers tell what device and files they have."""
    from misoxr.model.devices import choose_device

    if client is not None and not client.scheduler_info(n_workers=-1)["workers"]:
        client.submit(choose_device, "auto", pure=False, resources=resources).result()


def _computes_elsewhere(client: Any) -> bool:
    """Return whether blocks are computed in other processes than this one."""
    if client is not None:
        return not all(address.startswith("inproc://") for address in client.scheduler_info(n_workers=-1)["workers"])
    return not in_task() and dask.base.get_scheduler() is dask.multiprocessing.get


def _active_client() -> Any:
    if in_task():
        return None  # a task that waited for others would hold a place that they need
    try:
        from distributed import get_client

        return get_client()
    except (ImportError, ValueError):
        return None


def _plan(layout: Layout, client: Any, *, compact: bool) -> dict[str, Any]:
    """Return all that must be the same for blocks of two runs to make one map."""
    ds = layout.ds
    attrs = ds.attrs
    provenance = json.loads(attrs.get("provenance", "{}")) if "provenance_sha256" in attrs else {}
    geobox = geobox_of(ds)
    named = {str(name): variable.attrs for name, variable in ds.variables.items() if name not in GRID}
    plan = {
        "format": FORMAT,
        "version": __version__,
        "provenance": _timeless(_resolved(provenance, client)),
        "attributes": _timeless({key: value for key, value in unreferenced(attrs).items() if key not in ELSEWHERE}),
        "attributes_of": _timeless(named),
        "tables": {str(name): _content(ds[name]) for name in ds.variables if name not in (*layout.blocked, *GRID)},
        "compact": compact,
        "grid": {
            "crs": str(geobox.crs),
            "affine": [float(value) for value in tuple(geobox.affine)[:6]],
            "shape": list(geobox.shape.yx),
        },
        "block": list(layout.block),
        "variables": {str(name): [str(v.dtype), list(map(str, v.dims)), list(v.shape)] for name, v in ds.variables.items()},
        "input": {str(name): dask.base.tokenize(ds[name].data) for name in layout.blocked},
    }
    plan["fingerprint"] = hashlib.sha256(json.dumps(plan, sort_keys=True, default=str).encode()).hexdigest()
    return plan


def _timeless(value: Any) -> Any:
    """Return attributes without those that tell when something was made, which no map depends on; numbers as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _timeless(item) for key, item in value.items() if key not in TIMES}
    return value.item() if isinstance(value, np.generic) else spelt(value)


def _content(variable: xr.DataArray) -> str:
    """Return the values of a coordinate or table, or their hash where they are many or lazy."""
    if variable.chunks is not None:
        return str(dask.base.tokenize(variable.data))
    values = variable.values.astype(str) if variable.dtype.kind in "mM" else variable.values
    if values.size <= FEW or values.dtype.kind == "O":
        text = str(values.tolist())
        return text if values.size <= FEW else hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _resolved(provenance: dict[str, Any], client: Any) -> dict[str, Any]:
    """Return provenance with the device that "auto" stands for where it is computed: another device gives other bytes."""
    if "models" in provenance:
        return provenance | {"models": [_resolved(one, client) for one in provenance["models"]]}
    settings = provenance.get("settings")
    if settings and settings.get("device") == "auto":
        return provenance | {"settings": settings | {"device": _device(client)}}
    return provenance


def _device(client: Any) -> str:
    """Return what "auto" stands for here, or on a client's workers; "auto" where they differ."""
    from misoxr.model.devices import choose_device

    found = {choose_device("auto")} if client is None else set(client.run(choose_device, "auto").values())
    kinds = {device.partition(":")[0] for device in found}
    return kinds.pop() if len(kinds) == 1 else "auto"


def _target(uri: str, system: Any, path: str, *, overwrite: bool) -> str:
    """Return where to write: aside, where a store is to be replaced."""
    if not (overwrite and system.exists(path)):
        return uri
    if not system.exists(f"{path}/zarr.json"):
        raise StoreError(f"{uri} exists and is no Zarr v3 store, so it is not replaced; give another path.")
    refuse_busy(uri, Ledger(progress_of(uri)))
    return aside(uri)


def _begin(ledger: Ledger, plan: Mapping[str, Any], target: str, *, resume: bool, replaces: bool) -> None:
    """See whether a store may be begun, or gone on with; forget records of a store that is there no more."""
    system, path = system_of(target)
    begun, exists = _begun(ledger, replaces=replaces), system.exists(path)
    if begun is None:
        if exists and ledger.has("blocks"):
            raise ledger.damaged("the plan is not there")
        if exists and not ledger.has("leases"):
            if replaces or not system.exists(f"{path}/zarr.json"):
                raise StoreError(f"{target} exists and was not begun here; {'move it away' if replaces else 'give another path'}.")
            raise StoreError(f"The store {target} exists; give another path, or overwrite=True to replace it.")
    elif not exists or (replaces and begun.get("fingerprint") != plan["fingerprint"]):
        refuse_busy(target, ledger)
        if exists:
            system.rm(path, recursive=True)
        ledger.forget()
    elif _fingerprint(target) != begun.get("fingerprint"):
        raise StoreError(f"The store {target} is not the one that {ledger.uri} records; give another path, or overwrite=True.")
    elif not resume and not replaces:
        raise StoreError(f"The store {target} exists, and resume=False; give another path, or overwrite=True to replace it.")


def _begun(ledger: Ledger, *, replaces: bool) -> dict[str, Any] | None:
    """Return the plan that a store was begun with; what is damaged, and was to replace another, is begun anew."""
    try:
        return ledger.plan()
    except StoreError:
        if not replaces:
            raise
        return {}


def _lay_out(layout: Layout, target: str, fingerprint: str, ledger: Ledger) -> None:
    """Lay a store out: on a disk it appears whole, and never in the place of what is there."""
    if ledger.own is None:
        ledger.check()
        lay_out(layout, target, fingerprint)
        seal(target)
    elif not Path(target).exists() or _fingerprint(target) != fingerprint:  # else one that was killed then has laid it out
        whole = ledger.own.parents[1] / "layout" / ledger.owner
        lay_out(layout, Disk(whole, ledger.own), fingerprint)
        seal(Disk(whole, ledger.own))
        move_through(ledger.own, whole, Path(target))


def _fingerprint(target: str) -> str:
    """Return the fingerprint that a store says it was laid out with."""
    try:
        root = Files(target).json(METADATA)
    except ValueError as error:
        raise lost(target, METADATA, f"it is no metadata of Zarr ({error})") from error
    if root is None:
        raise lost(target, METADATA, "there is no such file")
    attrs = root.get("attributes")
    if not isinstance(attrs, dict):
        raise lost(target, METADATA, "it has no attributes")
    return str(attrs.get(FINGERPRINT))


def _staged(client: Any, ledger: Ledger, layout: Layout) -> AbstractContextManager[None]:
    """Have the models where workers on other machines find them, until the end."""
    hashes = str(layout.ds.attrs.get("model_sha256", "")).split()
    if client is None or not hashes:
        return nullcontext()
    from misoxr.io import staging

    return staging.staged(client, ledger.uri, hashes) if staging.elsewhere(client) else nullcontext()


def _reach(client: Any, layout: Layout) -> None:
    """Refuse workers on other machines that lack the models: a repository has no place beside it for them."""
    hashes = str(layout.ds.attrs.get("model_sha256", "")).split()
    if client is None or not hashes:
        return
    from misoxr.io import staging

    lacking = staging.lacking(client, hashes) if staging.elsewhere(client) else []
    if lacking:
        raise StoreError(
            f"Workers on other machines ({len(lacking)}, the first at {lacking[0]}) have no copy of the checkpoint, and beside a repository "
            "is no place for it. Set MISOXR_CACHE to a directory that client and workers share, and predict again."
        )


def _finish(layout: Layout, target: str, ledger: Ledger) -> None:
    """Note in the store what is masked, gather its metadata, and note in the records that all is done."""
    ledger.check()
    place = writable(target, ledger.own)
    attrs = zarr.open_group(place, mode="r", use_consolidated=False).attrs.asdict()
    seal(place, with_masked(attrs, layout, ledger.masked()))
    consolidate(place)
    ledger.finish()
