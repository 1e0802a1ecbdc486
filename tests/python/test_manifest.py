"""The Parquet files opened in pandas, as a stranger with no code of ours would.

python3 -m venv .tidemark/venv && .tidemark/venv/bin/pip install -r tests/python/requirements.txt
.tidemark/venv/bin/python tests/python/test_manifest.py
"""

import hashlib
import json
import unittest
import uuid
from decimal import Decimal, getcontext
from pathlib import Path

import pandas
import pyarrow.parquet

FOLDER = Path(__file__).resolve().parent.parent / "vectors"
ZERO = bytes(20)
# Python adds decimals in 28 digits unless told otherwise, and a reward may have 38
getcontext().prec = 60


def vectors(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def hexadecimal(value):
    return "0x" + (value.bytes if isinstance(value, uuid.UUID) else bytes(value)).hex()


class Manifest(unittest.TestCase):
    def setUp(self):
        self.events = pandas.read_parquet(FOLDER / "manifest.parquet")
        self.header = vectors("batches.json")["vectors"][0]["message"]

    def test_the_rows_are_the_events(self):
        expected = [v["event"] for v in vectors("events.json")["vectors"][: len(self.events)]]
        self.assertEqual(len(self.events), self.header["eventCount"])
        for row, event in zip(self.events.itertuples(index=False), expected, strict=True):
            self.assertEqual(hexadecimal(row.data_id), event["dataId"])
            self.assertEqual((row[0], row.sequence, row.kind), (event["index"], event["sequence"], event["kind"]))
            for column in ["contributor", "content_hash", "consent_id", "commitment", "previous"]:
                first, *rest = column.split("_")
                field = first + "".join(word.capitalize() for word in rest)
                self.assertEqual(hexadecimal(getattr(row, column)), event[field], column)
            self.assertEqual(str(row.occurred_at), event["occurredAt"])
            self.assertEqual(str(row.task_id), event["taskId"])
            self.assertEqual(str(row.reward), event["reward"])
            self.assertEqual(hexadecimal(row.payee), event["payee"].lower())

    def test_unsigned_columns_stay_unsigned(self):
        kinds = {name: str(self.events[name].dtype) for name in ["index", "sequence", "kind", "occurred_at", "task_id"]}
        self.assertEqual(
            kinds,
            {"index": "uint32", "sequence": "uint32", "kind": "uint8", "occurred_at": "uint64", "task_id": "uint64"},
        )

    def test_sums_are_those_of_the_header_exactly(self):
        points = self.events[self.events.payee.map(bytes) == ZERO].reward.sum()
        wallet = self.events[self.events.payee.map(bytes) != ZERO].reward.sum()
        self.assertEqual(points, Decimal(self.header["pointsTotal"]))
        self.assertEqual(wallet, Decimal(self.header["walletTotal"]))
        self.assertGreater(points, 2**95)
        paid = self.events[self.events.reward > 0].groupby("task_id").reward.sum()
        debits = {int(debit["taskId"]): Decimal(debit["amount"]) for debit in self.header["debits"]}
        self.assertEqual(paid.to_dict(), debits)

    def test_its_metadata_says_whose_it_is(self):
        metadata = pyarrow.parquet.read_schema(FOLDER / "manifest.parquet").metadata
        self.assertEqual(metadata[b"tidemark.provider"].decode(), self.header["provider"])
        self.assertEqual(metadata[b"tidemark.number"].decode(), self.header["number"])

    def test_disclosures_open_the_commitments(self):
        disclosures = pandas.read_parquet(FOLDER / "disclosures.parquet")
        joined = disclosures.merge(self.events, on="index", validate="one_to_one")
        self.assertEqual(len(joined), len(disclosures))
        for row in joined.itertuples(index=False):
            self.assertEqual(hashlib.sha256(bytes(row.salt) + row.payload.encode()).digest(), bytes(row.commitment))
            json.loads(row.payload)

    def test_members_have_the_weights_of_their_version(self):
        members = pandas.read_parquet(FOLDER / "members.parquet")
        version = vectors("dataset_versions.json")["vectors"][0]["message"]
        self.assertEqual(len(members), version["memberCount"])
        self.assertEqual(members.weight.sum(), Decimal(version["totalWeight"]))
        points = members[members.payee.map(bytes) == ZERO].weight.sum()
        self.assertEqual(points, Decimal(version["pointsWeight"]))
        self.assertTrue(set(members.content_hash.map(bytes)) <= set(self.events.content_hash.map(bytes)))


if __name__ == "__main__":
    unittest.main()
