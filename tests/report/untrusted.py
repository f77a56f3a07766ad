"""What a model, a prompt or a file may say to a page, and how the page must show it."""

ATTACK = (
    "<script>window.pwned = 1</script>\"'><img src=x onerror=window.pwned=1>"
    "<svg onload=window.pwned=1></textarea></style><style>*{display:none}</style>"
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>{{ 7 * 191 }}"
)
HIDDEN = "safe\u202eevil\u202c \x1b[31mred\x1b[0m z\u200bw"
SHOWN = "safe⟨U+202E⟩evil⟨U+202C⟩ ⟨U+001B⟩[31mred⟨U+001B⟩[0m z⟨U+200B⟩w"
LONG = "x" * 1_000_000
