"""The verifier inside other packages: each through the package's own call, where it is installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from r1zero.reward import interfaces

RIGHT, WRONG = "so \\boxed{0.5}", "so \\boxed{0.25}"


def test_golds_of_any_shape_are_graded():
    assert interfaces.scores([RIGHT, WRONG, "0.5"], ["\\frac12", ["1/2"], 0.5]) == [1.0, 0.0, 0.0]
    assert interfaces.scores([" so </think> <answer> 1/2 </answer>"], [0.5], "answer_tag") == [1.0]


def test_trl_shapes():
    """Texts, and conversations of which the last message counts; other columns are let through."""
    reward = interfaces.trl_reward("solution")
    assert reward(completions=[RIGHT, WRONG], prompts=["", ""], solution=["1/2", "1/2"], trainer_state=None) == [
        1.0,
        0.0,
    ]
    assert reward(completions=[[{"role": "assistant", "content": RIGHT}]], solution=["1/2"]) == [1.0]


def test_a_copy_of_the_question_is_not_paid():
    """Each interface passes the question on, where its caller has it."""
    copy, question = "\\boxed{\\binom{8}{4}}", "Compute $\\binom{8}{4}$."
    asked = [[{"role": "user", "content": question}], question, "Compute 70."]
    assert interfaces.trl_reward()(completions=[copy] * 3, prompts=asked, answer=["70"] * 3) == [0.0, 0.0, 1.0]
    assert [interfaces.compute_score("", copy, "70", {"question": text}) for text in (question, "")] == [0.0, 1.0]
    assert interfaces.process_results({"problem": question, "answer": "70"}, [copy]) == {"math_verify": 0.0}


def test_trl_calls_it(tmp_path):
    """A step of GRPOTrainer on a tiny model asks for the rewards of its completions."""
    trl = pytest.importorskip("trl", reason="trl is not installed: its interface is not tested")
    from datasets import Dataset

    from tiny_models import make_tiny, tiny_tokenizer

    asked = []
    reward = interfaces.trl_reward()

    def watched(completions, **columns):
        asked.append((completions, columns["answer"]))
        return reward(completions, **columns)

    settings = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, bf16=False, num_generations=2, report_to=[],
        per_device_train_batch_size=2, max_completion_length=4, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "1+1=", "answer": "2"}])
    make_tiny(tmp_path / "model")
    model = str(tmp_path / "model")
    trl.GRPOTrainer(model, watched, settings, train_dataset=rows, processing_class=tiny_tokenizer()).train()
    assert len(asked[0][0]) == 2
    assert asked[0][1] == ["2", "2"]


def test_verl_calls_it():
    """verl loads the function from its file by name and calls it with its own keywords."""
    reward = pytest.importorskip("verl.trainer.ppo.reward", reason="verl is not installed: its interface is not tested")
    from omegaconf import OmegaConf

    custom = {"path": interfaces.__file__, "name": "compute_score", "reward_kwargs": {}}
    score = reward.get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": custom},
                                                          "custom_reward_function": custom}))  # fmt: skip
    asked = {"data_source": "math", "ground_truth": "1/2", "extra_info": {"extractor": "boxed"}}
    assert [score(solution_str=text, **asked) for text in (RIGHT, WRONG)] == [1.0, 0.0]


def test_lm_eval_calls_it():
    """A generate_until task whose process_results it is."""
    task = pytest.importorskip("lm_eval.api.task", reason="lm_eval is not installed: its interface is not tested")
    from datasets import Dataset, DatasetDict

    rows = DatasetDict({"test": Dataset.from_list([{"problem": "1/4+1/4?", "answer": "\\frac{1}{2}"}])})
    made = task.ConfigurableTask(
        config={
            "task": "halves", "custom_dataset": lambda **_: rows, "test_split": "test", "output_type": "generate_until",
            "doc_to_text": "{{problem}}", "doc_to_target": "{{answer}}", "process_results": interfaces.process_results,
            "metric_list": [{"metric": "math_verify", "aggregation": "mean", "higher_is_better": True}],
        }
    )  # fmt: skip
    doc = made.test_docs()[0]
    assert [made.process_results(doc, [text]) for text in (RIGHT, WRONG)] == [
        {"math_verify": 1.0},
        {"math_verify": 0.0},
    ]


def test_lighteval_calls_it():
    """The metric computes a sample and the mean of the corpus."""
    pytest.importorskip("lighteval", reason="lighteval is not installed: its interface is not tested")
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    metric = interfaces.lighteval_metric()
    doc = Doc(query="1/4+1/4?", choices=["1/2"], gold_index=0, task_name="halves")
    found = [metric.compute_sample(doc=doc, model_response=ModelResponse(text=[text])) for text in (RIGHT, WRONG)]
    assert found == [{"math_verify": 1.0}, {"math_verify": 0.0}]
    assert metric.corpus_level_fn([1.0, 0.0]) == 0.5


def test_the_answer_of_verl_without_extra_info_stands_in_a_box():
    asked = SimpleNamespace(data_source="math", ground_truth="1/2")
    assert interfaces.compute_score(asked.data_source, RIGHT, asked.ground_truth) == 1.0
