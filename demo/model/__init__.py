"""How the demo's checkpoint is made: data, an autoencoder, an inpainting UNet, and the figures that judge them.

`make demo-model` runs `python -m demo.model.train`. Nothing of this is imported by the program: the checkpoint that it
makes is a folder like any other.
"""
