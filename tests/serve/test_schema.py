"""The server keeps to its own description, whatever is sent (schemathesis)."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from helpers.serving import serving
from liveedit.serve.settings import Limits, Rights
from liveedit.store.store import Store

RIGHTS = Rights.of([], ["secret"])
BEARER = {"Authorization": "Bearer secret"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def described(embedded_vlm, tmp_path_factory):
    """The description of a server that answers shortly."""
    store = Store(tmp_path_factory.mktemp("described") / "edits.db")
    with serving(embedded_vlm, store, limits=Limits(tokens=4), rights=RIGHTS) as (address, _):
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


def test_every_answer_is_as_described(described):
    checked = 0
    for found in described.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=30,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case):
            case.call_and_validate(headers=BEARER, excluded_checks=[positive_data_acceptance])

        check()
        checked += 1
    assert checked > 15
