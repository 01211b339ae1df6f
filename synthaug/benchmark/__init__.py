"""The utility study: detectors trained on real, synthetic and mixed films, judged on the same real films.

study = open_study(real, [present, absent])
for progress in run_study(study, "STUDY"): ...
results = conclude(study, "STUDY")
"""
