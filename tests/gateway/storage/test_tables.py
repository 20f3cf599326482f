"""The tables of the core and of features: they are in the database as they are declared."""

import re
from typing import Any

from sqlalchemy import inspect

from imserver.gateway.config.settings import Config
from imserver.gateway.node.feature_list import load_features, tables_of, tables_of_server
from imserver.gateway.storage.migrations.table_text import column_of
from imserver.gateway.storage.statements import PooledStatements
from tests.stores import OpenStore


def test_the_columns_of_a_table_are_those_of_the_database(url: str, open_store: OpenStore) -> None:
    def check(sql: PooledStatements) -> None:
        def described(name: str, kind: Any, is_nullable: bool, default: Any) -> tuple[object, ...]:
            kind = re.sub(r"(INT\w*)\(\d+\)| .*", r"\1", kind.compile(sql.connection.dialect))
            return name, kind, is_nullable, re.sub(r"::.*|'|^(NULL|None|nextval.*)$", "", str(default))

        there = inspect(sql.connection)
        for table in tables_of_server():
            texts = [" ".join(each.split()[:2]) for each in table.types.replace('"', "").split(",")]
            columns = [(c.name, c.type, c.nullable, c.server_default) for c in map(column_of, texts)]
            declared = {described(*each, getattr(default, "arg", None)) for *each, default in columns}
            rows = there.get_columns(table.name)
            assert declared == {described(*map(c.get, ("name", "type", "nullable", "default"))) for c in rows}
            key = there.get_pk_constraint(table.name)["constrained_columns"]
            assert {name.strip('"') for name in table.key} == set(key), table.name

    open_store(url).read(check)


def test_a_feature_has_the_tables_of_its_light_module() -> None:
    for features in (load_features(Config()), ()):
        assert tables_of(features).of_server() == tables_of_server()
