"""The science of Centinela: plain Python on numpy, torch and scikit-learn, never Django.

From labelled records to decisions:

    from pathlib import Path
    from mlcore import decision, protocols, records, train
    from mlcore.scorer import Scorer

    spec = protocols.get("hiv-suspicion-es")
    cases = records.load_labelled(Path("train.jsonl"), spec)
    train.train(cases, spec, "compact", Path("bundle"), train.TrainConfig.quick())
    scores, embeddings, weights = Scorer.load(Path("bundle")).score_records([["Muguet oral.", "Fiebre y tos."]])
    decided = decision.decide(scores.credibility, scores.runner_up, scores.typicality, alpha=0.05, floor=0.01)
    print(spec.labels[scores.label[0]], decision.NAMES[decided[0]])

The paper's whole evaluation is `study.run(members.Cohort(spec, training, test), members.StudyConfig(), folder)`; it starts
processes, so a script calls it under `if __name__ == "__main__":`.
"""
