"""The stages of the method; `cai.pipeline.method` lists them."""
