"""The mathematics of the forward process, and DDIM sampling: diffusion time to signal and noise rates, and one step back."""
