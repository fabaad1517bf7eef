"""The U-Net of the chapter, and its building blocks."""
