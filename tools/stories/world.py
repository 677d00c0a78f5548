"""Who and what a story is about: characters, places, treasures, and how stories begin and end."""

import dataclasses

GIRLS = """Lily Mia Anna Rosa Emma Nora Zoe Ella Ruby Clara Sara Lucy Maya Ivy Hana Amira Tess Poppy
Freya June Leila Alice Molly Grace""".split()
BOYS = """Tom Ben Sam Max Leo Finn Jack Theo Omar Luca Noah Oscar Eli Hugo Kai Peter Arlo Milo Ravi
Felix Jonas Owen Toby Henry""".split()
ANIMAL_NAMES = """Pip Bramble Hazel Nutmeg Clover Tilly Button Pepper Biscuit Willow Acorn Thistle
Juniper Fern Rusty Bubbles Olive Pebble Maple Sorrel Poppet Whisker""".split()
ANIMALS = "rabbit fox bear hedgehog squirrel mouse badger otter mole kitten".split()

# trait: (how it shows, how it stands at the end of a story)
TRAITS = {
    "curious": (
        "{h.he} [asked a hundred questions a day|wanted to know how everything worked|"
        "liked to look under every stone]",
        "[{h} was as curious as ever, and had a hundred new questions|"
        "{h} still looked under every stone]",
    ),
    "shy": (
        "{h.he} [often hid behind {h.his} {parent} when someone said hello|"
        "spoke so softly that people had to lean in to hear]",
        "[{h} was still a little shy, but not as shy as before|"
        "{h} spoke a little louder from that day on]",
    ),
    "cheerful": (
        "{h.he} [hummed from morning to night|could make anyone smile|" "sang even when it rained]",
        "[{h} hummed all the way to bed|{h} sang {h.his} happiest song]",
    ),
    "stubborn": (
        "[once {h.he} had decided something, nobody could change {h.his} mind|"
        "{h.he} did not like to ask for help]",
        "[{h} was still stubborn now and then, but {h.he} had learned to listen|"
        "from then on {h} asked for help when {h.he} needed it]",
    ),
    "impatient": (
        "{h.he} [hated to wait for anything|wanted everything to happen at once]",
        "[{h} had learned that some things take time|"
        "{h} still found waiting hard, but {h.he} was getting better at it]",
    ),
    "dreamy": (
        "{h.he} [could watch the clouds for hours|often forgot what {h.he} was doing because "
        "{h.he} was thinking of something else]",
        "[{h} dreamed about it for many nights|{h} looked at the stars and dreamed a little]",
    ),
    "gentle": (
        "{h.he} [never stepped on an ant|carried spiders outside in a cup]",
        "[{h} was as gentle as ever|{h} whispered good night to every spider in the " "{home}]",
    ),
    "clever": (
        "{h.he} [was good at puzzles|could fix almost anything with a bit of string]",
        "[{h} already had another clever idea|{h} thought that being kind was even "
        "better than being clever]",
    ),
    "careful": (
        "{h.he} [always looked twice before {h.he} jumped|put everything back in its place]",
        "[{h} was as careful as ever|" "{h} put everything back in its place and sighed happily]",
    ),
    "playful": (
        "{h.he} [turned everything into a game|could never walk when {h.he} could skip]",
        "[{h} skipped all the way to bed|{h} was already thinking of a new game]",
    ),
}

# (place, spots in it, what one notices there)
PEOPLE_PLACES = [
    (
        "a small village by the sea",
        ["the beach", "the old pier", "the lighthouse", "the rock pools"],
        [
            "the air smelled of salt there",
            "at night you could hear the waves",
            "the gulls were always hungry there",
        ],
    ),
    (
        "a quiet town at the foot of a mountain",
        ["the park", "the stone bridge", "the market square", "the mill"],
        [
            "the mountain wore a white cap all year",
            "the bell rang every hour there",
            "in the evening the whole town turned golden",
        ],
    ),
    (
        "a farm with a red barn",
        ["the barn", "the apple orchard", "the duck pond", "the hay field"],
        [
            "there were nine cows and one very loud rooster",
            "the swallows came back every year",
            "it always smelled of hay there",
        ],
    ),
    (
        "a tall house at the end of a lane",
        ["the garden", "the rose gate", "the old well", "the playground"],
        [
            "the house had a round window under the roof",
            "the lane was full of wild flowers",
            "the stairs creaked like an old ship",
        ],
    ),
    (
        "a village beside a wide river",
        ["the river bank", "the boat house", "the willow tree", "the wooden bridge"],
        [
            "slow boats went by all day",
            "in the morning the river was white with mist",
            "the river was never the same color twice",
        ],
    ),
]
ANIMAL_PLACES = [
    (
        "a green forest",
        ["the hollow log", "the old oak", "the stream", "the blackberry bushes"],
        [
            "the trees there were very old",
            "the light fell in spots on the moss",
            "a woodpecker was always at work there",
        ],
    ),
    (
        "a sunny meadow",
        ["the tall grass", "the mossy wall", "the stream", "the hawthorn hedge"],
        [
            "the bees hummed there all day",
            "the grass was as high as a house",
            "there were more flowers than anyone could count",
        ],
    ),
    (
        "the hills above a lake",
        ["the lake shore", "the flat rock", "the pine trees", "the cave"],
        [
            "the lake was as blue as the sky",
            "the wind always had something to say there",
            "you could see very far from there",
        ],
    ),
    (
        "a wood full of birches",
        ["the fern hollow", "the fallen birch", "the pond", "the wild roses"],
        [
            "the white trees shone even at night",
            "the leaves whispered all day",
            "mushrooms grew in rings there",
        ],
    ),
]
FOODS = [
    "warm bread and honey",
    "berry pie",
    "hot soup",
    "apple cake",
    "oat cookies",
    "blackberries and cream",
    "nut cake",
    "pear tart",
    "carrot soup",
    "plum jam on toast",
]
CLOTH = ["kite", "scarf", "hat", "blanket"]
COLOURS = "red blue green yellow purple orange silver white".split()

# noun: where the hero has it from
TREASURES = {
    "kite": "{elder} had made it from old silk",
    "scarf": "{elder} had knitted it by the fire",
    "hat": "{elder} had sewn a feather on it",
    "ball": "{elder} had given it to {h.him} on {h.his} birthday",
    "drum": "{elder} had taught {h.him} to play it",
    "whistle": "{elder} had carved it from a branch",
    "lantern": "{elder} had carried it long ago",
    "basket": "{elder} had woven it from reeds",
    "blanket": "{elder} had made it out of a hundred little pieces",
    "button": "it had come from the coat of {elder}",
    "toy boat": "{elder} had painted it",
    "ring": "{elder} had worn it when {elder_he} was young",
}


@dataclasses.dataclass
class Character:
    """A person or an animal with its pronouns. str() is the name."""

    name: str
    he: str
    kind: str
    is_animal: bool
    adjective: str = "little"

    def __post_init__(self):
        male = self.he == "he"
        self.him = "him" if male else "her"
        self.his = "his" if male else "her"
        self.himself = "himself" if male else "herself"
        self.He, self.His = self.he.capitalize(), self.his.capitalize()
        self.hand = "paw" if self.is_animal else "hand"
        self.what = f"{self.adjective} {self.kind}"
        self.intro = f"a {self.what} named {self.name}"

    def __str__(self):
        return self.name


def make_character(rng, is_animal, taken):
    """A character whose name and (for animals) kind are not in `taken`, which it joins."""
    he = rng.choice(["he", "she"])
    if is_animal:
        names, kinds = ANIMAL_NAMES, ANIMALS
    else:
        names, kinds = (BOYS, ["boy"]) if he == "he" else (GIRLS, ["girl"])
    name = rng.choice([each for each in names if each not in taken])
    kind = rng.choice([each for each in kinds if each not in taken])
    taken.add(name)
    if is_animal:
        taken.add(kind)
    return Character(name, he, kind, is_animal, rng.choice(["little", "young", "small"]))


def make_world(story):
    """Fills the story with a hero h, a friend f, a third g, a place, its spots and a treasure."""
    rng = story.rng
    is_animal = rng.random() < 0.4
    taken = set()
    hero, friend, third = (make_character(rng, is_animal, taken) for _ in range(3))
    place, spots, details = rng.choice(ANIMAL_PLACES if is_animal else PEOPLE_PLACES)
    spot, other_spot, third_spot = rng.sample(spots, 3)
    parent, parent_he = rng.choice([("mother", "she"), ("father", "he")])
    if is_animal:
        old = rng.choice(["Old Owl", "Old Crow", "Old Toad"])
        wise, wise_he = old, rng.choice(["he", "she"])
    else:
        wise, wise_he = rng.choice(
            [
                ("Mrs. Green", "she"),
                ("Mr. Hill", "he"),
                ("Mrs. Bell", "she"),
                ("Mr. Wood", "he"),
                ("old Captain Gray", "he"),
                ("Aunt Rose", "she"),
                ("Uncle Joe", "he"),
            ]
        )
    elder, elder_he = rng.choice([("grandmother", "she"), ("grandfather", "he")])
    trait = rng.choice(sorted(TRAITS))
    thing = rng.choice(sorted(TREASURES))
    colour = rng.choice(COLOURS)
    story.know(
        h=hero,
        f=friend,
        g=third,
        place=place,
        in_place=("on " if "farm" in place else "in ") + place,
        place_detail=rng.choice(details),
        spot=spot,
        spot2=other_spot,
        spot3=third_spot,
        parent=parent,
        parent_he=parent_he,
        parent_him="her" if parent_he == "she" else "him",
        mum=f"{hero.his} {parent}",
        wise=wise,
        wise_he=wise_he,
        wise_his="his" if wise_he == "he" else "her",
        elder=f"{hero.his} {elder}",
        elder_word=elder,
        elder_he=elder_he,
        elder_him="her" if elder_he == "she" else "him",
        trait=trait,
        trait_shows=TRAITS[trait][0],
        trait_late=TRAITS[trait][1],
        thing=thing,
        colour=colour,
        full_thing=f"{colour} {thing}",
        thing_story=TREASURES[thing],
        food=rng.choice(FOODS),
        home=rng.choice(["den", "burrow"]) if is_animal else "house",
        hands="paws" if is_animal else "hands",
        weather=rng.choice(["sunny", "bright", "windy", "cool", "warm", "misty"]),
        season=rng.choice(["spring", "summer", "autumn"]),
    )


TIMELESS = [
    "once upon a time, there was {h.intro} who lived {in_place}.",
    "once upon a time, {in_place}, there lived {h.intro}.",
    "once there was {h.intro}. {h.he} lived {in_place}.",
    "there was a {h.what} who lived {in_place}. {h.his} name was {h}.",
    "there was once {h.intro} who lived {in_place} with {h.his} family.",
    "{in_place} lived {h.intro}.",
    "{h} was a {h.what} who lived {in_place}.",
    "{h} lived {in_place} with {mum}. {h.he} was a {h.what} with [bright|big|kind] eyes.",
    "long ago, {in_place}, there lived {h.intro}.",
    "far away, {in_place}, {h.intro} lived with {mum}.",
    "this is the story of {h}, a {h.what} who lived {in_place}.",
]
TIMED = [
    "one {weather} morning {in_place}, {h.intro} woke up early.",
    "one morning, {h.intro} woke up to the sound of [birds|the wind|bells far away] {in_place}.",
    "it was a {weather} day in {season}, and {h.intro} was [wide awake|ready for anything].",
    "one {weather} day, {h.intro} went out to play.",
    "on the first day of {season}, {h.intro} got up before the sun. {h.he} lived {in_place}.",
]


def opening(story, friend_is_new):
    """Introduces the hero, the place, the trait and, unless the plot does so, the friend.

    Half-way through it is settled whether the story has already begun on a certain day, and so how
    the plot is to name the day on which something happens.
    """
    timed = story.rng.random() < 0.35
    story.say(story.pick(TIMED if timed else TIMELESS))
    if timed:
        story.know(
            one_day="that day",
            one_morning="after breakfast",
            one_evening="that evening",
            one_afternoon="that afternoon",
        )
    else:
        story.know(
            one_day="one {weather} day",
            one_morning="one {weather} morning",
            one_evening="one {weather} evening",
            one_afternoon="one {weather} afternoon",
        )
        story.maybe(0.4, "{place_detail}.")
    story.say(
        "[{h} was [very|quite] {trait}, and {trait_shows}.|"
        "everyone knew that {h} was {trait}. {trait_shows}.|{h} was {trait}. {trait_shows}.]"
    )
    if not friend_is_new:
        story.say(
            "{h.his} [best|dearest] friend was {f} the {f.kind}[|, who lived near {spot2}]."
            if story.facts["h"].is_animal
            else "{h.his} best friend was {f}, who lived [next door|around the corner|near "
            "{spot2}]."
        )


def ending(story, *morals):
    """Closes the day, perhaps with a meal, the hero's trait and one of the morals."""
    story.maybe(
        0.35,
        "[that evening|when the sun went down|before bed], "
        "[they all shared {food}|{h} and {f} ate {food} together|"
        "{mum} made {food}, and everyone had some].",
    )
    story.maybe(0.4, "{trait_late}.")
    last = story.rng.random()
    if last < 0.55 and morals:
        story.say(
            "[{h} had learned that|that day {h} learned that|and so {h} found out that|"
            "{h} never forgot that|{h} and {f} both knew now that] " + story.pick(morals) + "."
        )
    elif last < 0.8:
        story.say(
            story.pick(
                [
                    "that night {h} fell asleep with a smile.",
                    "and that was the best day of the whole {season}.",
                    "and whenever {h} passed {spot}, {h.he} remembered that day.",
                    "{h} and {f} stayed friends for the rest of their lives.",
                    "and from that day on, {h} and {f} were the best of friends.",
                    "{mum} tucked {h.him} in, and the stars came out over {place}.",
                    "it had been a long day, and a very good one.",
                    '"What a day!" said {h}, and {h.he} closed {h.his} eyes.',
                ]
            )
        )
    else:
        story.say(
            "[and they all lived happily ever after.|the end.|and everyone was happy.|"
            "and so the day ended well for everyone.]"
        )
