"""Plots about courage: a storm, a rescue, a journey, the dark, a skill, a wish, a lost child."""

from stories.world import ending


def storm(s):
    s.know(
        **s.pick(
            [
                dict(
                    baby="a baby bird",
                    the_baby="the baby bird",
                    baby_cry="cheeped",
                    harm="had fallen out of its nest",
                    bed="a warm sock",
                ),
                dict(
                    baby="a tiny puppy",
                    the_baby="the puppy",
                    baby_cry="whined",
                    harm="was wet to the bone",
                    bed="an old basket",
                ),
                dict(
                    baby="a little lamb",
                    the_baby="the lamb",
                    baby_cry="bleated",
                    harm="had lost its mother",
                    bed="some dry straw",
                ),
            ]
        )
    )
    s.say(
        "[in the afternoon the sky turned dark|all day the air had been heavy and still]. {mum} "
        'looked up. "A storm is coming," {parent_he} said. "[Close the windows|Come inside]."',
        "soon the rain [drummed on the roof|came down in ropes], and the thunder [rolled over "
        "the hills|boomed like a giant drum]. {h} [hid under a blanket|held {h.his} ears "
        "shut|counted between the flash and the bang].",
    )
    s.paragraph()
    s.say(
        "then, between two claps of thunder, {h} heard something else. something {baby_cry} "
        "outside.",
        "{h} [looked out|pressed {h.his} nose to the window]. near {spot} sat {baby}. it {harm}.",
        "{h} was [afraid|so scared that {h.his} knees shook]. but the little one was [more "
        'afraid|all alone]. "[If I am scared in here, how must it feel out there?|It needs '
        'someone,]" {h.he} [thought|said].',
        '{mum} took a lantern. "[We will go together|Stay close to me]," {parent_he} said, and '
        "out they went.",
    )
    s.paragraph()
    s.say(
        "the wind [pulled at them|pushed them back], and the rain [stung their faces|ran down "
        "their necks], but {h} [did not turn back|kept walking]. {h.he} picked up {the_baby} and "
        "held it close.",
        "back in the {home}, {h} dried it and made a bed of {bed}. {h.he} [sang to it|told it "
        "not to be afraid] every time the thunder came, and [after a while {h.he} noticed that "
        "{h.he} was not afraid any more|soon both of them were asleep].",
    )
    s.paragraph()
    s.say(
        "in the morning the storm was gone. [a rainbow stood over {spot2}|every leaf was "
        "shining|the world smelled new].",
        "a soft call came from outside, and {the_baby} {baby_cry} with joy. it was its mother! "
        "she [touched {h}'s cheek gently|looked at {h} for a long time], and then the two of "
        "them went home.",
        '{f} came by and [heard|asked to hear] the whole story. "Weren\'t you scared?" asked '
        '{f}. "[Yes|Very]," said {h}, "but [not for long|I was too busy to think about it]."',
    )
    ending(
        s,
        "being brave means being scared and doing it anyway",
        "when you help someone, your own fear grows small",
        "every storm comes to an end",
    )


def rescue(s):
    s.know(
        **s.pick(
            [
                dict(
                    victim="a duckling",
                    stuck="stuck in deep mud",
                    tool="a long board",
                    used="laid the board on the mud and crawled along it",
                    thanks="quacked three times",
                ),
                dict(
                    victim="a baby goat",
                    stuck="caught on a narrow ledge",
                    tool="a strong rope",
                    used="tied the rope round a tree and climbed down step by step",
                    thanks="rubbed its head against {h.him}",
                ),
                dict(
                    victim="a hedgehog baby",
                    stuck="at the bottom of a dry well",
                    tool="a basket on a rope",
                    used="let the basket down slowly and put a piece of apple in it",
                    thanks="sniffed at {h.his} {h.hand}",
                ),
                dict(
                    victim="a puppy",
                    stuck="caught in a thorn bush",
                    tool="a pair of thick gloves",
                    used="bent the thorns aside, one by one",
                    thanks="licked {h.his} nose",
                ),
            ]
        )
    )
    s.say(
        "{one_day} {h} and {f} were [walking|playing] near {spot} when they heard a "
        '[small|sad|strange] sound. "[Did you hear that|What was that]?" asked {f}.',
        "they followed the sound to {spot2}. there they saw {victim}. it was {stuck}, and it "
        "[could not move|was very tired].",
    )
    s.paragraph()
    s.say(
        '{f} wanted to [run to it at once|jump right in]. "Wait!" said {h}. "[If we get stuck '
        'too, nobody will be there to help|Let us think first]."',
        "{h} [looked around|thought hard|counted to ten]. then {h.he} remembered that there was "
        '{tool} [at home|behind the {home}|near {spot3}]. "Stay here and [talk to it '
        'softly|keep it calm]," {h.he} said, and ran.',
        "{h} [had never run so fast|ran until {h.his} side hurt]. soon {h.he} was back.",
    )
    s.paragraph()
    s.say(
        "while {f} [helped|held on tight], {h} {used}. it was [slow work|not easy]. [once {h} "
        "nearly slipped|{h.his} {h.hand} was shaking|twice {h.he} had to start again], but {f} "
        'said, "[You can do it|Just a little more|I\'ve got you]."',
        "and then, [very gently|little by little], [it was free|it came free]!",
        "it {thanks}, as if to say thank you. {h} and {f} [looked at each other and "
        "smiled|cheered|fell into the grass and laughed].",
    )
    s.paragraph()
    s.say(
        'when they came home, [they were dirty from head to toe|it was almost dark]. "What '
        'happened to you?" asked {mum}.',
        'they told {parent_him} everything. {mum} was not cross at all. "[You used your head '
        'and your heart|You did well, both of you]," {parent_he} said, and [gave them '
        "{food}|put {food} on the table|hugged them, mud and all].",
    )
    ending(
        s,
        "it is wise to think before you jump",
        "a small helper can do a big thing",
        "a brave heart works best with a cool head",
    )


OBSTACLES = {
    "rope": (
        "they came to a steep rock. {h} took out the rope, threw it round a tree at the top, and "
        "one after the other they pulled themselves up.",
        "a broken bridge hung over a stream. {h} tied the rope to both sides, and they held on "
        "to it while they crossed.",
    ),
    "lantern": (
        "the path went through a dark tunnel. {h} lit the lantern, and the shadows ran away.",
        "the sun went down early. {h} lit the lantern, and its small light showed them the way.",
    ),
    "umbrella": (
        "it began to rain hard. they stood under the umbrella, all dry, and sang until it stopped.",
        "there was a wide puddle. they turned the umbrella over, sat in it and paddled across.",
    ),
    "whistle": (
        "a thick fog came down. {h} blew the whistle again and again, so that {f} could always "
        "hear where {h} was.",
        "a big goose would not let them pass. {h} blew the whistle, and the goose was so "
        "surprised that it sat down.",
    ),
    "bread": (
        "a hungry dog stood in the way. {h} gave it some of the bread, and it wagged its tail "
        "and walked with them.",
        "halfway there they were too tired to go on. they sat down and shared the bread, and "
        "then their legs felt new.",
    ),
}


def journey(s):
    packed = s.rng.sample(sorted(OBSTACLES), 2)
    s.know(
        a=packed[0],
        b=packed[1],
        goal=s.pick(
            [
                "the top of the hill",
                "the far side of the lake",
                "the house of {elder}",
                "the old tower",
            ]
        ),
    )
    s.know(
        why={
            "the top of the hill": "to see where the sun goes at night",
            "the far side of the lake": "to find out what made the light there",
            "the house of {elder}": "to bring {elder_him} a letter",
            "the old tower": "to ring the bell that nobody had rung for years",
        }[s.facts["goal"]]
    )
    s.say(
        '{h} wanted to go to {goal}, {why}. "That is [far|a long way]," said {mum}. "[Take a '
        'friend and pack well.|What will you take?]"'
    )
    name = {"bread": "some bread", "umbrella": "an umbrella"}
    s.know(
        a_item=name.get(packed[0], "a " + packed[0]), b_item=name.get(packed[1], "a " + packed[1])
    )
    s.say(
        "so {h} asked {f} to come along, and {h.he} packed two things: {a_item} and {b_item}. "
        '"[Why those|What are they for]?" asked {f}. "[You never know|We\'ll see]," said {h}.'
    )
    s.paragraph()
    s.say(
        "they set out [early|at sunrise|when the grass was still wet]. they walked past {spot} "
        "and past {spot2}, farther than they had ever been.",
        s.pick(OBSTACLES[packed[0]]),
    )
    s.say('"[Good that you packed the {a}|Now I know why you took the {a}]," said {f}.')
    s.maybe(
        0.6,
        "they walked on. [the path went up and up|birds they did not know sang in the trees|{f} "
        "told funny stories, and the way seemed shorter].",
    )
    s.paragraph()
    s.say(s.pick(OBSTACLES[packed[1]]))
    s.say('"[Hooray for the {b}|I will never laugh at your bag again]," said {f}.')
    s.say("at last they [stood at|reached] {goal}.")
    s.say(
        {
            "the top of the hill": "the sun was just going down. \"It doesn't go to bed at "
            'all," whispered {h}. "It only goes to wake up someone '
            'else."',
            "the far side of the lake": 'hundreds of fireflies were dancing over the water. "So '
            'that was the light," said {h}, and nobody spoke for a '
            "long time.",
            "the house of {elder}": "{elder} opened the door and laughed for joy. {elder_he} "
            'read the letter twice. "The letter is lovely," {elder_he} '
            'said, "but you are the best part of it."',
            "the old tower": "they climbed the steps and pulled with all their might. Dong! The "
            "sound rolled over the land, and far away everyone stopped and "
            "listened.",
        }[s.facts["goal"]]
    )
    s.maybe(
        0.6,
        "the way home was [much shorter|easy], as it always is when [you know the path|your "
        "heart is full].",
    )
    ending(
        s,
        "a good plan makes a long way short",
        "the best thing to take on a journey is a friend",
        "it is good to be ready",
    )


def afraid_of_dark(s):
    s.know(
        **s.pick(
            [
                dict(
                    noise="Tap, tap, tap", source="a branch that the wind moved against the window"
                ),
                dict(noise="Hoo, hoo", source="an old owl who was singing to her babies"),
                dict(
                    noise="Scratch, scratch",
                    source="a lost hedgehog who was looking for the way out",
                ),
                dict(noise="Drip, drop", source="the rain that fell into a bucket"),
            ]
        )
    )
    s.say(
        "by day {h} was afraid of nothing. but at night, when the light was out, {h.he} [pulled "
        "the blanket up to {h.his} nose|could not sleep]. the dark was [so big|full of shapes].",
        '"[There is nothing there|It is only the night]," said {mum}. {h} wanted to believe '
        "it, but {h.he} could not.",
    )
    s.paragraph()
    s.say(
        "one night {f} came to stay. they [told each other stories|played cards|ate {food} in "
        "bed] until the moon was high. then {mum} put out the light.",
        '"{noise}," went something in the dark. {h} sat up. "Did you hear that?" {h.he} whispered.',
        '"Yes," whispered {f}, and {f.his} voice [shook|was very small]. {f} was afraid too! '
        "[{h} had thought that {h.he} was the only one|that made {h} feel a little braver].",
        '"{noise}," it went again.',
    )
    s.paragraph()
    s.say(
        '"Let\'s go and see," said {h}. they [took each other by the {h.hand}|lit a small '
        "candle] and went, step by step, toward the sound.",
        "{h} [opened the window|counted to three and looked]. and what was it? it was {source}!",
        "they looked at each other and began to laugh. they laughed until {mum} came to see what "
        "was the matter.",
        '"We found the monster," said {h}. "[It is very small|It is only scary until you know '
        'its name]."',
    )
    s.paragraph()
    s.say(
        "before they went back to bed, they looked out. [the night was full of stars|the moon "
        'lay on {spot} like milk|a cool wind smelled of flowers]. "The dark is [beautiful|where '
        'the stars live]," said {f}.',
        "after that night, {h} still heard noises in the dark. but now {h.he} [smiled and "
        "guessed what they were|gave each one a name|listened to them until {h.he} fell asleep].",
    )
    ending(
        s,
        "things are less scary when you look at them",
        "two scared friends make one brave team",
        "even the brave are afraid sometimes",
    )


def new_skill(s):
    s.know(
        **s.pick(
            [
                dict(
                    skill="swim",
                    tries="swallowed half the pond",
                    trick="lie on the water like a leaf",
                ),
                dict(
                    skill="whistle",
                    tries="blew until {h.his} cheeks hurt, but only air came out",
                    trick="make a small round mouth, as if you wanted to kiss the wind",
                ),
                dict(
                    skill="walk on stilts",
                    tries="fell off with a bump",
                    trick="look ahead and not at your feet",
                ),
                dict(
                    skill="climb the tallest tree",
                    tries="slid down again with leaves in {h.his} hair",
                    trick="find the next branch before you let go of the last",
                ),
                dict(
                    skill="juggle",
                    tries="dropped every apple on {h.his} toes",
                    trick="begin with one apple and then take two",
                ),
            ]
        )
    )
    s.say(
        "all of {h}'s friends could {skill}. only {h} could not. \"[You'll never learn it|Ha "
        'ha|Look at {h}]," [laughed|teased] {g}.',
        "{h} [went red|pretended not to care], but {h.he} [wanted to learn it very much|thought "
        "of it all night].",
    )
    s.paragraph()
    s.say(
        "the next morning {h} got up before anyone else and tried. {h.he} {tries}. {h.he} tried "
        "again, and it was [even worse|no better].",
        '"I can\'t {skill}," said {h}. "[I will never learn|I give up]."',
        '{wise}, who had been watching, [came closer|laughed softly]. "You can\'t {skill} yet," '
        'said {wise}. "[Yet is a very useful word|I could not do it either when I was small|I '
        'fell a hundred times]. Try this: {trick}."',
    )
    s.paragraph()
    s.say(
        "{h} tried it. it was [a tiny bit better|almost right]. {h.he} came back the next day, "
        "and the next. [some days were good, and some were bad|when {h.he} wanted to stop, "
        '{h.he} said "yet" to {h.himself}].',
        "{f} [came to watch and clapped every time|kept {h.him} company|learned the trick as "
        "well].",
        "then, one bright morning, it worked! [for one moment {h} could not believe it|{h} did "
        'it once, and then again, just to be sure]. "I can {skill}!" {h.he} [shouted|sang].',
    )
    s.paragraph()
    s.say(
        'when the others saw it, they [opened their mouths wide|cheered]. even {g} said, "[That '
        'was good.|How did you do that?]"',
        "{h} could have laughed at {g}. but {h.he} [remembered how that had felt|did not]. "
        '"I\'ll show you a trick," {h.he} said instead.',
    )
    ending(
        s,
        '"not yet" is not the same as "never"',
        "if you keep trying, you get there",
        "it is better to help than to laugh",
    )


def wish(s):
    s.know(
        magic=s.pick(
            [
                "a tiny star that had fallen from the sky",
                "a golden fish in a small pool",
                "a fairy no bigger than a thumb",
                "a very old turtle with moss on its back",
            ]
        )
    )
    s.know(
        m=(
            "the star"
            if "star" in s.facts["magic"]
            else (
                "the fish"
                if "fish" in s.facts["magic"]
                else "the fairy" if "fairy" in s.facts["magic"] else "the turtle"
            )
        )
    )
    s.know(
        trap={
            "the star": "caught in a bush and could not rise",
            "the fish": "alone, for the pool was drying up",
            "the fairy": "crying, because one wing was wet",
            "the turtle": "lying on its back, with its feet in the air",
        }[s.facts["m"]],
        freed={
            "the star": "untangled it, though it was hot",
            "the fish": "carried it to the lake in a cup",
            "the fairy": "dried the wing with a soft leaf",
            "the turtle": "turned it over with a strong stick",
        }[s.facts["m"]],
    )
    s.say(
        "{one_evening}, {h} was on the way home from {spot} when {h.he} saw {magic}. it was "
        "{trap}.",
        '"[Don\'t be afraid|Hold still]," said {h}, and {h.he} {freed}.',
        '"Thank you," said {m}, [in a voice like a bell|very softly]. "[Now you may have one '
        'wish|One good turn deserves another. Make a wish]."',
    )
    s.paragraph()
    s.say(
        "a wish! {h} [sat down to think|could hardly breathe]. {h.he} thought of [a mountain of "
        "{food}|a castle|a horse that could fly]. {h.he} thought of [a {colour} coat|never "
        "having to go to bed|being the strongest of all].",
        '"May I think about it until tomorrow?" {h.he} asked. "[Of course|You may]," said {m}.',
        'on the way home {h} met {f}. {f} was [sad|very quiet]. "{g} is ill," {f.he} said. '
        "\"[{g.He} has not laughed for a week|{g.He} can't come out to play]. Nobody knows what "
        'to do."',
    )
    s.paragraph()
    s.say(
        "that night {h} [lay awake|looked at the moon for a long time]. in the morning {h.he} "
        'ran back. "I know my wish," {h.he} said. "I wish that {g} would get well."',
        '"[Nothing for yourself|Are you sure]?" asked {m}. {h} [thought for one more '
        "second|swallowed] and nodded.",
        "{m} [shone|smiled], and a warm wind went over {spot}.",
    )
    s.paragraph()
    s.say(
        "when {h} got home, someone was [jumping up and down at the gate|calling {h.his} name]. "
        'it was {g}, with [red cheeks|shining eyes]! "I woke up, and it was gone!" {g.he} '
        'said. "[Come and play|I am so hungry I could eat a tree]."',
        "{h}, {f} and {g} played until dark. {h} never told them about the wish. but [every "
        "night one star winked at {h.him}|sometimes {h.he} smiled to {h.himself} for no "
        "reason|now and then {h.he} found a small gift at the door].",
    )
    ending(
        s,
        "the best wishes are for others",
        "a kind deed is its own reward",
        "seeing a friend happy is better than a castle",
    )


def lost_child(s):
    s.know(
        **s.pick(
            [
                dict(lure="a {colour} butterfly", sign="moss grows on one side of the trees"),
                dict(
                    lure="a trail of tiny footprints",
                    sign="a stream always runs down to the valley",
                ),
                dict(lure="a strange bright light", sign="the evening star stands over home"),
            ]
        )
    )
    s.say(
        '"Don\'t go farther than {spot}," {mum} always told {h}. and {h} never did, until the '
        "day {h.he} saw {lure}.",
        "{h.he} followed it [a little way|just to the next tree], and then a little more. when "
        "{h.he} looked up, {h.he} [did not know where {h.he} was|could not see the path any "
        "more].",
        '"Hello?" called {h}. only [the wind|an echo] answered.',
    )
    s.paragraph()
    s.say(
        "{h} [wanted to run|felt the tears come], but {h.he} remembered what {elder} had said: "
        '"If you are lost, stand still and think." So {h.he} [sat down on a stone|took three '
        "deep breaths].",
        'then {h.he} heard somebody cry. behind a bush sat {f.intro}. "I\'m lost," {f.he} said. '
        '"[Me too|So am I]," said {h}, "but now we are lost together, and that is [only half '
        'as bad|better]."',
        '"I know that {sign}. My {elder_word} taught me that."',
    )
    s.paragraph()
    s.say(
        "so they looked for it, and they found it. they walked slowly, and {h} [held {f}'s "
        "{h.hand}|sang so that {f} would not be afraid]. when {f} was tired, they rested. when "
        "it grew [cold|dark], they [sat close to keep warm|walked closer together].",
        "at last they saw [a light between the trees|smoke over a roof]. it was {spot}! and "
        "there stood {mum}, with a lantern in the dusk.",
        "{mum} [hugged {h.him} so hard that it almost hurt|laughed and cried]. \"I'm sorry I "
        'went too far," said {h}. "[I am glad you kept your head|You found the way back, and '
        'that is what counts]," said {mum}.',
    )
    s.paragraph()
    s.say(
        '{f} lived just [over the hill|beyond {spot2}], and {mum} took {f.him} home. "Will you '
        'come and play tomorrow?" asked {f}. "Yes," said {h}, "but [by the path|not by the '
        'bushes]."'
    )
    ending(
        s,
        "when you are lost, it helps to stand still and think",
        "good advice is a light in the dark",
        "a trouble shared is a trouble halved",
    )


PLOTS = [storm, rescue, journey, afraid_of_dark, new_skill, wish, lost_child]
