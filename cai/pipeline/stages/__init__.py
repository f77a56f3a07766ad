"""The stages of the method, a module each; `cai.pipeline.method` lists them."""
