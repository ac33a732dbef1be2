"""Foreign bytes by the thousand: coverage-guided fuzzing (atheris, which is libFuzzer) of every reader of them.

    python -m tests.fuzz TARGET --seconds 600

A target feeds one reader and then asks what the reader promises: an error of ours or a right answer, and nothing else.
The corpus that it starts from is in `corpus/TARGET/`; `python -m tests.fuzz.make_corpus` writes it, all but the files
named `found-*`: inputs that broke a promise once. Guidance sees our own Python and Pillow's; what Pillow, OpenCV and
Arrow do in C is fuzzed blindly, under a limit of memory and of time.
"""
