import numpy as np
import pytest

from lm.base.errors import UserError
from lm.data.config import Config
from lm.data.corpora import documents, fingerprint
from lm.data.tasks import prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which two datasets are prepared, by a builder that is then forgotten."""
    import tensorflow_datasets as tfds
    place = tmp_path_factory.mktemp("tfds")

    def build(name, file_format):
        def info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "id": np.int64}))

        def generate(self, n):
            for i in range(n):
                yield i, {"text": f"record {i} é " + "word " * (i % 17), "id": i}

        with tfds.core.registered.skip_registration():
            cls = type(name, (tfds.core.GeneratorBasedBuilder,), {
                "VERSION": tfds.core.Version("1.2.0"), "_info": info,
                "_generate_examples": generate,
                "_split_generators": lambda self, _: {
                    "train": generate(self, 600), "test": generate(self, 5)},
                "__module__": __name__})
        cls(data_dir=place, file_format=file_format).download_and_prepare()

    build("LmToy", "array_record")
    build("LmParquet", "parquet")
    return place


@pytest.fixture
def place(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    return prepared


def texts(corpus, **fields):
    return [d.text for d in documents(Config(corpus=corpus, **fields))]


def test_reads_what_was_prepared(place):
    want = {f"record {i} é " + "word " * (i % 17) for i in range(600)}
    assert set(texts("tfds:lm_toy")) == want
    assert texts("tfds:lm_toy") == texts("tfds:lm_toy:1.2.0:train")
    assert len(texts("tfds:lm_toy:test")) == 5
    assert len(texts("tfds:lm_toy:train[:10%]")) == 60
    assert len(texts("tfds:lm_toy", limit=1000)) < 60
    assert fingerprint(Config(corpus="tfds:lm_toy")) != fingerprint(
        Config(corpus="tfds:lm_toy:test"))


def test_prepares_a_task(place, tmp_path):
    task = prepare(Config(corpus="tfds:lm_toy", tokenizer="bytes", T=16, cache=str(tmp_path)),
                   lambda message: None)
    assert len(task.train.documents) + len(task.validation.documents) == 602


@pytest.mark.parametrize("corpus,field,says", [
    ("tfds:tiny_shakespeer", "text",
     r"unknown dataset 'tiny_shakespeer'; did you mean 'tiny_shakespeare'\?"),
    ("tfds:lm1b", "text", "'lm1b' is not prepared in .*download_and_prepare.*TFDS_DATA_DIR"),
    ("tfds:wiki40b/en", "text", "'wiki40b/en' is not prepared in .*tensorflow_datasets.text"),
    ("tfds:wiki40b/english", "text", "dataset 'wiki40b/english': "),
    ("tfds:lm_toy:trian", "text", r"has no split 'trian'; did you mean 'train'\?"),
    ("tfds:lm_toy", "txt", r"has no field 'txt'; did you mean 'text'\?; set text_field"),
    ("tfds:lm_toy", "id", "record 0: the field is a int, not text"),
    ("tfds:lm_parquet", "text", "stored as parquet, which needs .*file_format='array_record'"),
    ("tfds:", "text", "not of the form tfds:NAME"),
])
def test_errors_in_one_line(place, corpus, field, says):
    with pytest.raises(UserError, match=says) as error:
        texts(corpus, text_field=field)
    assert "\n" not in str(error.value)
