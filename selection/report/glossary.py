"""The words of the pages, which are opened where no other page is at hand.

docs/glossary.md has all words of the output; those here stand in it with the same sentences.
"""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Word:
    """A word and what it means; `code` stands between backticks."""

    word: str
    meaning: str

    @property
    def key(self) -> str:
        """Under which it is linked, `tie-set`: of several words the first."""
        return re.sub(r"\W+|_", "-", self.word.split(",")[0].lower()).strip("-")


WORDS = tuple(
    Word(*each)
    for each in (
        (
            "arm",
            "one way to train the CNN in a study: real images only, class weights, GAN "
            "oversampling …",
        ),
        (
            "balanced accuracy",
            "the mean over the classes of the share that is classified right",
        ),
        (
            "baseline",
            "trial 0 of a search (`t0000`): the configuration's own values, before anything is "
            "searched",
        ),
        (
            "candidate",
            "an epoch that passed step 1 of a pick, and whose weights are kept",
        ),
        (
            "ceiling",
            "the score of CNNs trained on the real images: what generated images are measured "
            "against",
        ),
        (
            "champion",
            "the alias in MLflow's registry of the version that is used where none is named",
        ),
        ("chance", "the score of an answer that is always the same class"),
        (
            "cnn3",
            "features of three CNNs trained on your real images; used where Inception's weights "
            "are not there",
        ),
        (
            "coverage",
            "share of real images that have a generated one among their neighbours (Naeem et al. "
            "2020)",
        ),
        (
            "dead discriminator",
            "a discriminator that calls almost all images generated, or almost all real",
        ),
        (
            "density",
            "how many real neighbourhoods a generated image lies in (Naeem et al. 2020)",
        ),
        (
            "`fd_cnn`",
            "Fréchet distance in features of a CNN trained on your real images: small is good; not "
            "FID",
        ),
        (
            "filter score",
            "orders the epochs of one trial by the generator's loss and by the discriminator's "
            "accuracy on generated images",
        ),
        (
            "finalist",
            "a candidate of the tie set, whose images step 3 measures",
        ),
        (
            "FID, intra-FID",
            "Fréchet distance in Inception's features, of all images, and the mean within classes",
        ),
        (
            "KID, intra-KID",
            "the same question by a kernel distance, which is unbiased with few images",
        ),
        (
            "latent",
            "the random numbers from which the generator makes an image",
        ),
        (
            "look, touch",
            "a use of the test images; each is recorded in the study",
        ),
        (
            "memorisation",
            "whether generated images lie nearer to training images than other patients' images do",
        ),
        (
            "objective",
            "the recorded number by which trials are judged: `val/coverage` unless another is "
            "named",
        ),
        (
            "one picture per class",
            "the images of a class hardly differ (`val/diversity` below 0.3)",
        ),
        (
            "precision, recall",
            "share of generated images among real ones, and of real ones among generated ones "
            "(Kynkäänniemi et al. 2019)",
        ),
        (
            "sources",
            "the data sets or hospitals that images come from",
        ),
        (
            "spread, `val/diversity`",
            "how far images of a class are from each other, as a share of real ones'",
        ),
        (
            "tie set",
            "the candidates that the data cannot tell from the best one",
        ),
        (
            "trial",
            "one training of one AC-GAN, with one choice of the searched settings",
        ),
        (
            "young",
            "an epoch of a trial's beginning, in which it is not judged: the first tenth, or 150 "
            "updates",
        ),
    )
)
KEYS = frozenset(word.key for word in WORDS)


class Glossary:
    """The words of one page: those that it links to are listed at its end."""

    def __init__(self) -> None:
        self._known = {word.key: word for word in WORDS}
        self._used: set[str] = set()

    def term(self, key: str, text: str | None = None) -> Markup:
        """Return a link to a word's meaning; text: what is read, where it is not the word."""
        self._used.add(key)
        word = text or self._known[key].word.replace("`", "")
        return Markup('<a class="term" href="#term-{}">{}</a>').format(key, word)

    def linked(self, text: str) -> Markup:
        """Return a text in which the first occurrence of each word is linked."""
        plain = {w.word: w.key for w in WORDS if "," not in w.word and "`" not in w.word}
        found = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in plain))
        pieces, at, done = [], 0, set[str]()
        for match in found.finditer(text):
            if match[0] not in done:
                done.add(match[0])
                pieces += [escape(text[at : match.start()]), self.term(plain[match[0]])]
                at = match.end()
        return Markup("").join([*pieces, escape(text[at:])])

    def used(self) -> list[Word]:
        """Return the words that are linked to, in their order."""
        return [word for word in WORDS if word.key in self._used]


def code(text: str) -> Markup:
    """Return a text as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
