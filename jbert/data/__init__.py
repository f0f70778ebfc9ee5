"""Raw examples from files and TFDS, as tables that know where each of their rows came from."""
