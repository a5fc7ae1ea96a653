from small_llama import make_plan, make_text, texts, tiny  # noqa: F401  (fixtures)
