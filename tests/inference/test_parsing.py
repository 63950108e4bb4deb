import pytest

from mosear.data.sources import ca_mer
from mosear.inference.parsing import ParsedAnswer, normalise, parse_answer, parse_list

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


RLVR_REFUSAL = ParsedAnswer(None, "not <think>..</think><answer>..</answer>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>sad?\nno, angry</think>\n<answer>\nHappy\n</answer>", ParsedAnswer("Happy")),
        ("<think></think><answer>joy</answer>", ParsedAnswer("Happy")),
        (" \n<think>x</think> \n\t <answer> SAD. </answer>\n", ParsedAnswer("sad")),
        ("<think>x</think><answer>The answer is sad</answer>", ParsedAnswer(None, "no label")),
        ("<think>x</think><answer>sad, angry</answer>", ParsedAnswer(None, "no label")),
        ("<think>x</think><answer>\n</answer>", ParsedAnswer(None, "empty")),
        ("<answer>sad</answer>", RLVR_REFUSAL),
        ("sad", RLVR_REFUSAL),
        ("<think>x</think>so <answer>sad</answer>", RLVR_REFUSAL),
        ("<think>x</think><answer>sad</answer>.", RLVR_REFUSAL),
        ("<answer>sad</answer><think>x</think>", RLVR_REFUSAL),
        ("<think>x</think><answer>sad</answer><answer>sad</answer>", RLVR_REFUSAL),
        ("<think><answer>angry</answer></think><answer>sad</answer>", RLVR_REFUSAL),
        ("<think>x</think><answer>sad", RLVR_REFUSAL),
        ("<Think>x</Think><Answer>sad</Answer>", RLVR_REFUSAL),
    ],
)
def test_rlvr(text, expected):
    assert parse_answer(text, LABELS, answer_format="rlvr", synonyms={"joy": "Happy"}) == expected


def test_rlvr_is_stricter_than_tags():
    """Whatever has the strict form has the lenient one too; not the other way round."""
    for text in ("<think>a</think>\n<answer>sad</answer>", "<think>a</think><answer>\nangry\n</answer>"):
        strict = parse_answer(text, LABELS, answer_format="rlvr")
        assert strict.label is not None
        assert strict == parse_answer(text, LABELS, answer_format="tags")
    assert parse_answer("<answer>sad</answer>", LABELS, answer_format="tags").label == "sad"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"final_label": "sad"}', ParsedAnswer("sad")),
        ('\n {"evidence": ["x"], "final_label": " SAD\\n"} \n', ParsedAnswer("sad")),
        ('{"final_label": "ｓａｄ"}', ParsedAnswer("sad")),
        ('{"final_label": "Worried"}', ParsedAnswer("worry")),
        ('{"final_label": "afraid"}', ParsedAnswer("fear")),
        ('{"final_label": "sad."}', ParsedAnswer(None, "no label")),
        ('{"final_label": "frustrated"}', ParsedAnswer(None, "no label")),
        ('{"final_label": "sad, angry"}', ParsedAnswer(None, "no label")),
        ('```json\n{"final_label": "sad"}\n```', ParsedAnswer(None, "invalid JSON")),
        ('{"final_label": "sad"} Done.', ParsedAnswer(None, "invalid JSON")),
        ("{'final_label': 'sad'}", ParsedAnswer(None, "invalid JSON")),
        ('{"confidence": NaN, "final_label": "sad"}', ParsedAnswer(None, "invalid JSON")),
        ('{"Final_Label": "sad"}', ParsedAnswer(None, "no final_label")),
        ('["sad"]', ParsedAnswer(None, "no final_label")),
        ('"sad"', ParsedAnswer(None, "no final_label")),
        ('{"final_label": "sad", "final_label": "sad"}',
         ParsedAnswer(None, "ambiguous: final_label is given 2 times")),
        ('{"final_label": ["sad"]}', ParsedAnswer(None, "final_label is not a string")),
        ('{"final_label": "\\u2003"}', ParsedAnswer(None, "empty")),
        ("sad", ParsedAnswer(None, "invalid JSON")),
    ],
)  # fmt: skip
def test_camer_protocol(text, expected):
    assert parse_answer(text, ca_mer.LABELS, answer_format="strict_json", synonyms=ca_mer.SYNONYMS) == expected


def test_camer_vocabulary():
    assert len(set(ca_mer.LABELS)) == 9
    for spelling, label in ca_mer.SYNONYMS.items():
        answer = f'{{"final_label": "{spelling}"}}'
        parsed = parse_answer(answer, ca_mer.LABELS, answer_format="strict_json", synonyms=ca_mer.SYNONYMS)
        assert parsed == ParsedAnswer(label)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['looking forward to', 'joyful']", ["looking forward to", "joyful"]),
        ('["Sad",  "angry"]', ["sad", "angry"]),
        ("[sad, angry]", ["sad", "angry"]),
        ("['surprised']", ["surprised"]),
        ("Happy", ["happy"]),
        ("", []),
        ("[]", []),
        (None, []),
        (float("nan"), []),
        (" [ 'a' , ,, '' ] ", ["a"]),
        ("[[a]]", ["[a]"]),
        ("don't care", ["don", "t care"]),
    ],
)
def test_lists_of_words(text, words):
    assert parse_list(text) == words


def test_a_number_is_no_list():
    with pytest.raises(ValueError, match="is text, got 3"):
        parse_list(3)


HOSTILE = ["[" * 100_000, "<answer>" * 5_000, "sad " * 20_000, '{"final_label": ' + "1" * 5_000 + "}", "\ud800",
           "<think>" + " " * 100_000, "<think></think>" + " " * 100_000 + "x"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("answer_format", ["word", "tags", "json", "rlvr", "strict_json"])
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


SCORES = [f"{tenth / 10:.1f}" for tenth in range(-30, 31)]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("-0.4", "-0.4"),
        ("0.4", "0.4"),
        ("+1.0", "1.0"),
        ("2", "2.0"),
        ("-0.0", "0.0"),
        ("The sentiment is \u22121.2.", "-1.2"),
        ("\u20131.2", "-1.2"),
        ("1.5, that is 1.5", "1.5"),
    ],
)
def test_scores_keep_their_sign_and_decimals(text, label):
    assert parse_answer(text, SCORES) == ParsedAnswer(label)
    assert parse_answer(f"<think>2.0</think><answer>{text}</answer>", SCORES, answer_format="tags").label == label


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("happy", "no label"),
        ("0.45", "no label"),
        ("-7.0", "no label"),
        ("1.0 or -1.0", "ambiguous: -1, 1"),
    ],
)
def test_what_is_no_score_is_not_guessed(text, reason):
    assert parse_answer(text, SCORES) == ParsedAnswer(None, reason)


def test_other_formats_take_scores_as_a_whole():
    rlvr = "<think>2.0</think><answer> -0.4 </answer>"
    assert parse_answer(rlvr, SCORES, answer_format="rlvr") == ParsedAnswer("-0.4")
    assert parse_answer('{"final_label": "-0.4"}', SCORES, answer_format="json") == ParsedAnswer("-0.4")


def test_digits_are_words_as_before():
    assert parse_answer("class 3", ["1", "2", "3"]) == ParsedAnswer("3")
    assert parse_answer("3.1", ["1", "2", "3"]).reason == "ambiguous: 1, 3"
