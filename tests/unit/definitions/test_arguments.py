"""Arguments that a definition does not have are named with what to write instead, those of Feast among them."""

import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, OnDemandFeatureView, SqlSource

SOURCE = FileSource("rides", path="rides.parquet", event_time="at")
DRIVER = Entity("driver", key="driver")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Entity(name="driver", join_keys=["driver_id"]), "Entity has no argument 'join_keys'. Write key="),
        (lambda: Entity("driver", key="driver", value_type="INT64"), "no argument 'value_type'. Write dtype='int64'."),
        (lambda: FileSource("rides", path="r.parquet", timestamp_field="at"), "'timestamp_field'. Write event_time="),
        (
            lambda: FileSource("rides", path="r", event_time="at", created_timestamp_column="created"),
            "FileSource has no argument 'created_timestamp_column'. Leave it out if it is the time of a load.",
        ),
        (lambda: SqlSource("rides", url="", event_time="at", timestamp_field="at"), "SqlSource has no argument"),
        (
            lambda: FeatureView("v", entities=[DRIVER], source=SOURCE, features={}),
            "FeatureView has no argument 'entities'. A view has one entity: entity=driver.",
        ),
        (lambda: FeatureView("v", entity=DRIVER, source=SOURCE, schema=[]), "no argument 'schema'. Write how events"),
        (lambda: OnDemandFeatureView("v", sources=[], features={}), "no argument 'sources'. Leave it out: refer to"),
        (lambda: FeatureService("s", views=[]), "FeatureService has no argument 'views'. Write features="),
        (lambda: FeatureView("v", entity=DRIVER, source=SOURCE, feature={}), "Did you mean 'features'?"),
        (lambda: Entity("driver", key="driver", zzz=1), "Arguments: name, key, dtype, owner, description, tags."),
    ],
)
def test_an_unknown_argument_comes_with_what_to_write_instead(make, message):
    with pytest.raises(TypeError) as caught:
        make()
    assert message in str(caught.value)


def test_the_verbs_of_feast_are_explained(tmp_path):
    store = FeatureStore.local(tmp_path)
    with pytest.raises(AttributeError, match=r"no attribute 'get_historical_features'. Write training_set\("):
        store.get_historical_features(entity_df=None)
    with pytest.raises(AttributeError, match=r"'FeatureStore' object has no attribute 'nothing'"):
        _ = store.nothing
