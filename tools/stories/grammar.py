"""Templates: `[one|two|three]` picks an alternative (nested ones too), `{h.he}` names a fact.

A template is written as English with holes. Articles and sentence capitals are put right when a
sentence is filled in, so that `a {thing}` and `{h.he} ran.` need no care where they stand.
"""

import re

_INNERMOST = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])")
_SENTENCE_START = re.compile(r"(^|[.!?] |\n)([a-z])")


def expand(rng, template):
    """Resolves every alternative of a template, innermost first."""
    while "[" in template:
        template = _INNERMOST.sub(lambda found: rng.choice(found[1].split("|")), template)
    return template


def polish(text):
    """Puts articles and sentence capitals right and squeezes spaces."""
    text = re.sub(r" {2,}", " ", text).strip()
    text = _ARTICLE.sub(r"\1n ", text)
    return _SENTENCE_START.sub(lambda found: found[1] + found[2].upper(), text)


class Story:
    """A story being told: the random choices, the facts so far and the paragraphs.

    `facts` maps the names that templates use to characters, things and words; a plot adds to it as
    it goes, so that a later sentence can only repeat what an earlier one said.
    """

    def __init__(self, rng):
        self.rng = rng
        self.facts = {}
        self.paragraphs = [[]]

    def know(self, **facts):
        self.facts.update(facts)

    def pick(self, options):
        return self.rng.choice(options)

    def fill(self, template):
        """The template with alternatives and facts put in. A fact may itself be a template."""
        text = expand(self.rng, template)
        while "{" in text:
            text = expand(self.rng, text.format(**self.facts))
        return text

    def say(self, *templates):
        """Adds each template to the present paragraph."""
        for template in templates:
            text = polish(self.fill(template))
            if text:
                self.paragraphs[-1].append(text)

    def maybe(self, chance, *templates):
        """As say, with the given chance for all of them together."""
        if self.rng.random() < chance:
            self.say(*templates)

    def paragraph(self):
        if self.paragraphs[-1]:
            self.paragraphs.append([])

    def text(self):
        return "\n\n".join(" ".join(sentences) for sentences in self.paragraphs if sentences)
