"""Model folders: found, loaded, named, and how text becomes their token ids."""
