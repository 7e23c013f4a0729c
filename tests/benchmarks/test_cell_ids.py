"""Ids of cells as the first version with them gave them: a changed id would run finished benchmarks again."""

import pytest

from selfprompt.benchmarks.protocols import PROTOCOLS, build_grid
from selfprompt.benchmarks.rows import parse_rows

ROWS = ("sep", "sep[options.layers=[1,2]]", "coop", "spt-authors")
DATASETS = {"coop": "dtd", "embedded": "animals", "vtab": "dtd", "fgvc": "cub", "folder": "photos"}
TARGETS = {"cross-dataset": ("food",), "domain-generalization": ("dark",)}
IDS = {
    ("base-to-new", "coop"): "6787d7c3fb0f93c5 58c2538e74aacc20 c9bfd09ac96f0482 2acc15b65b3e9d44",
    ("base-to-new", "embedded"): "985cac364c993bd3 2870a2dc3f906a5d 2159292386b07035 7a4c9efc583a8ca8",
    ("few-shot", "coop"): "a4634ef629173d8f 80cc7f92d267f800 ae78d17b8888ca29 bc03afe0c075a3b4",
    ("few-shot", "embedded"): "2f3632c6b35bc281 d27d0970ac28bf74 d120cc05f2fd3ef6 0ef8207ac93bb986",
    ("cross-dataset", "coop"): "0037b83b07cbac4c 0c8beb168918b398 74115f7dc4b6b35b 3b32e8f6cf9d9e7c",
    ("cross-dataset", "embedded"): "bb5a78bb2ab6f2a5 bdcfb580a07c8255 2f9099f1eec94355 bdd3d810e3af18ff",
    ("domain-generalization", "coop"): "cdbb4901313783c7 307348557829ab69 afa8cc721940c80c 0c948b257fa42a3e",
    ("domain-generalization", "embedded"): "c41cc02783e8412d 3fd8fedf2b3290cb 43e77541bccd5807 872e54f921b300ab",
    ("vtab", "vtab"): "3bbd91743183587e 0d1b3466358dbdac 809013ef3fa181d7 8c2f6bba3bb689ed",
    ("holdout", "folder"): "61faec80cdceb9c5 1a623ce35f1894cf 20d873d4a23ec50c cb84bdf513f13bff",
    ("fgvc", "fgvc"): "f0432d72ac0e65b6 48931efe826bdf74 2fe29fc452861056 58e35d626a656434",
    ("strict", "coop"): "ad504808061efd28 b12b3156e2ace4d5 ce77590c22c0e03d 0129c27b1b728dfd",
    ("strict", "embedded"): "2fe87e07fe89769b 0b0b73080ed04417 db8b40deddb5be67 61f5e308623b5318",
    ("strict-few-shot", "coop"): "0d2f079fa595c18f 776ccefe612641f0 54542baf96b9d828 6c25da79137dd14d",
    ("strict-few-shot", "embedded"): "c56cddac8d2a2f8c beab6ed9cf901618 5061eeab542894f4 ca8c3f540a261294",
}
"""The first 16 digits of the ids of ``ROWS``, by protocol and suite."""


def test_every_protocol_is_here():
    assert set(IDS) == {(name, suite) for name, protocol in PROTOCOLS.items() for suite in protocol.suites}


@pytest.mark.parametrize(("protocol", "suite"), IDS)
def test_ids_of_cells_stay(protocol, suite):
    dataset, shots = DATASETS[suite], PROTOCOLS[protocol].shots[-1:]
    targets, preprocessing = {dataset: TARGETS.get(protocol, ())}, "spt" if suite == "vtab" else ""
    ids = [
        cell.id[:16]
        for row in ROWS
        for cell in build_grid(protocol, suite, parse_rows(row), [dataset], (1,), shots, {}, targets, preprocessing)
    ]
    assert ids == IDS[protocol, suite].split()
