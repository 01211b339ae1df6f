"""Detectors: multi-label classifiers of radiographs, trained on real, synthetic or mixed data sets."""

from synthaug.detection.detector import Detector, DetectorConfig, build_detector, load_detector
from synthaug.detection.films import Films, hold
from synthaug.detection.predict import predict
from synthaug.detection.recipe import StepRecord, TrainRecipe
from synthaug.detection.train import train_detector

__all__ = [
    "Detector",
    "DetectorConfig",
    "Films",
    "StepRecord",
    "TrainRecipe",
    "build_detector",
    "hold",
    "load_detector",
    "predict",
    "train_detector",
]
