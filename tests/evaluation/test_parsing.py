import pytest

from mosear.evaluation.parsing import ParsedAnswer, normalise, parse_answer

LABELS = ["Happy", "happy for you", "sad", "angry", "self-conscious"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("sad", "sad"),
        ("  Sad.\n", "sad"),
        ("ｈａｐｐｙ！", "Happy"),
        ('"HAPPY"', "Happy"),
        ("**angry**", "angry"),
        ("The person is sad, clearly sad.", "sad"),
        ("I am happy for you", "happy for you"),
        ("happy for your sister", "Happy"),
        ("Self conscious", "self-conscious"),
        ("she looks self_conscious today", "self-conscious"),
        ("joy", "Happy"),
    ],
)
def test_word_labels(text, label):
    assert parse_answer(text, LABELS, synonyms={"joy": "Happy"}) == ParsedAnswer(label)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "empty"),
        ("  \n", "empty"),
        ("?!", "empty"),
        ("fine", "no label"),
        ("sadness", "no label"),
        ("unhappy", "no label"),
        ("sad or angry", "ambiguous: angry, sad"),
        ("happy for you, but also happy", "ambiguous: Happy, happy for you"),
    ],
)
def test_word_refusals(text, reason):
    assert parse_answer(text, LABELS) == ParsedAnswer(None, reason)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>sad?\nno, angry</think>\n<answer>\nHappy\n</answer>", ParsedAnswer("Happy")),
        ("<answer>sad</answer> trailing angry", ParsedAnswer("sad")),
        ("<ANSWER>The answer is sad.</ANSWER>", ParsedAnswer("sad")),
        ("<think><answer>sad</answer></think><answer>angry</answer>", ParsedAnswer("angry")),
        ("<answer>sad</answer><answer>sad</answer>", ParsedAnswer("sad")),
        ("<answer>sad</answer><answer>angry</answer>", ParsedAnswer(None, "ambiguous: angry, sad")),
        ("<answer></answer>", ParsedAnswer(None, "empty")),
        ("<think>sad", ParsedAnswer(None, "no <answer> tag")),
        ("sad", ParsedAnswer(None, "no <answer> tag")),
    ],
)
def test_tags(text, expected):
    assert parse_answer(text, LABELS, answer_format="tags") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"final_label": "Sad"}', ParsedAnswer("sad")),
        ('```json\n{"reason": {"x": [1]}, "final_label": "happy"}\n```', ParsedAnswer("Happy")),
        ('{"final_label": "joy"}', ParsedAnswer("Happy")),
        ('{"final_label": "rather sad"}', ParsedAnswer(None, "no label")),
        (
            '{"final_label": "sad", "final_label": "angry"}',
            ParsedAnswer(None, "ambiguous: final_label is given 2 times"),
        ),
        ('{"final_label": ["sad"]}', ParsedAnswer(None, "final_label is not a string")),
        ('{"final_label": null}', ParsedAnswer(None, "final_label is not a string")),
        ('{"label": "sad"}', ParsedAnswer(None, "no final_label")),
        ('[["final_label", "sad"]]', ParsedAnswer(None, "no final_label")),
        ('{"final_label": "sad"', ParsedAnswer(None, "invalid JSON")),
        ('{"final_label": " "}', ParsedAnswer(None, "empty")),
    ],
)
def test_json(text, expected):
    assert parse_answer(text, LABELS, answer_format="json", synonyms={"joy": "Happy"}) == expected


@pytest.mark.parametrize("text", ["[" * 100_000, "<answer>" * 5_000, "sad " * 20_000])
@pytest.mark.parametrize("answer_format", ["word", "tags", "json"])
def test_hostile_text_is_an_answer_like_any_other(text, answer_format):
    parsed = parse_answer(text, LABELS, answer_format=answer_format)
    assert (parsed.label is None) != (parsed.reason is None)


def test_normalise():
    assert normalise("  Ｈello,\tWORLD_! ") == "hello world"


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["sad"], {"answer_format": "xml"}, "word, tags, json"),
        (["sad", "SAD"], {}, "reads as both"),
        (["sad", "!"], {}, "no letters"),
        (["sad"], {"synonyms": {"joy": "happy"}}, r"\['happy'\]"),
        (["sad", "happy"], {"synonyms": {"sad": "happy"}}, "reads as both"),
    ],
)
def test_user_errors(labels, options, message):
    with pytest.raises(ValueError, match=message):
        parse_answer("sad", labels, **options)
