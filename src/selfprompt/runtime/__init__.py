"""Classifies images with an exported classifier, with numpy, pillow and onnxruntime alone.

    import selfprompt.runtime

    classifier = selfprompt.runtime.load("dogs-onnx")
    classifier.predict("photo.jpg", top=3)

On the command line: ``python -m selfprompt.runtime dogs-onnx photo.jpg``.
"""

from selfprompt.runtime.classifier import ExportedClassifier, load

__all__ = ["ExportedClassifier", "load"]
