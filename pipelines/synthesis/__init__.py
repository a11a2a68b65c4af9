"""The instruments behind `pipelines.synthetic`: functions (rng, samples, rate) -> f32[samples]."""
