"""Plots about things: one lost, one broken, one made, one planted, one shared, one baked."""

from stories.world import CLOTH, ending


def lost_thing(s):
    s.know(
        **s.pick(
            [
                (
                    dict(
                        cause="the wind had [carried|blown] it there",
                        where="in the branches of a tree",
                        found_by="something {colour} that moved in the wind",
                    )
                    if s.facts["thing"] in CLOTH
                    else dict(
                        cause="a magpie had taken it for its nest",
                        where="beside a nest full of odd things",
                        found_by="a magpie that hopped about and looked very proud",
                    )
                ),
                dict(
                    cause="it had slipped out when {h} jumped over a puddle",
                    where="half hidden under the leaves",
                    found_by="a bit of {colour} on the ground",
                ),
                dict(
                    cause="the puppy had carried it off to play",
                    where="between the feet of a sleepy puppy",
                    found_by="small round footprints in the mud",
                ),
            ]
        )
    )
    s.say(
        "{h} had a {full_thing} that {h.he} loved more than anything. {thing_story}.",
        "{h} [took it everywhere|never went out without it|kept it close all day].",
    )
    s.paragraph()
    s.say(
        "{one_day}, {h} came home from {spot} and [put {h.his} {h.hand} in {h.his} bag|looked "
        "for the {thing}|wanted to show the {thing} to {mum}].",
        "it was [gone|not there|nowhere to be seen]! [{h.his} heart sank|{h} felt cold all "
        "over|tears came to {h.his} eyes].",
        '"My {elder_word} will be so sad," [{h.he} thought|{h} whispered].',
    )
    s.say(
        "{f} [came running|heard {h.him} crying and came over|saw at once that something was "
        "wrong].",
        '"Don\'t [worry|cry]," said {f}. "[Where did you see it last?|Let\'s go back the way '
        'you came.|Two pairs of eyes are better than one.]"',
    )
    s.paragraph()
    s.say(
        "first they looked near {spot}. they [searched under the stones|looked behind every "
        "bush|asked everyone they met], but the {thing} was not there.",
        "then they went to {spot2}. [there was nothing there but a sleepy frog|they found an old "
        "shoe and two feathers, but no {thing}|nobody there had seen it].",
        '[{h} sat down and sighed|{h} wanted to give up|"It is lost for ever," said {h}].',
        '"[One more place|Let\'s try once more|Not yet]," said {f}, and {f.he} [took {h} by the '
        "{h.hand}|pointed to the path that led to {spot3}].",
    )
    s.paragraph()
    s.say(
        'near {spot3}, {f} [stopped|stood very still]. "Look!" {f.he} said. {f.he} had seen '
        "{found_by}.",
        "[and there it was|there was the {full_thing}], {where}! {cause}.",
        "{h} [hugged the {thing} and then hugged {f}|jumped for joy|laughed out loud].",
        '"Thank you, {f}," {h.he} said. "[I would have given up|I could not have found it '
        'alone|You are the best friend in the world]."',
    )
    s.maybe(
        0.5,
        "[after that, {h} tied the {thing} to {h.his} bag with a string|{elder} smiled when "
        "{elder_he} heard the story|from then on, {h} checked twice before {h.he} went home].",
    )
    ending(
        s,
        "a friend is worth more than any treasure",
        "you should not give up too soon",
        "lost things are easier to find together",
        "it is good to take care of the things we love",
    )


def broken_thing(s):
    s.know(
        breakable=s.pick(["vase", "jug", "clay pot", "bowl"]),
        liked=s.pick(
            [
                "a wedding gift",
                "the prettiest thing in the {home}",
                "a gift from a dear friend",
                "very old",
            ]
        ),
    )
    s.say(
        "on the shelf stood a {colour} {breakable}. it was {liked}, and {mum} loved it.",
        '"[Please don\'t play near the shelf|Be careful with it]," {mum} always said.',
    )
    s.paragraph()
    s.say(
        "{one_afternoon}, {h} was [chasing a ball|dancing|playing pirates] inside. {h.he} "
        "[forgot to be careful|turned round too fast|did not look where {h.he} was going].",
        "Crash! The {breakable} [fell and broke into three pieces|lay in pieces on the floor].",
        "{h} was [frightened|so scared that {h.he} held {h.his} breath]. {h.he} [swept the "
        "pieces under the rug|hid the pieces in a box|put the pieces behind the curtain].",
        'when {mum} asked, "Where is the {breakable}?" {h} [looked at the floor and said, "I '
        'don\'t know."|said, "Maybe the wind took it."|said nothing at all.]',
    )
    s.paragraph()
    s.say(
        "but [the {food} tasted of nothing that night|{h} could not sleep that night|{h.his} "
        "tummy felt as heavy as a stone].",
        "in the morning {h} told {f} [everything|what had happened].",
        '{f} [thought about it|was quiet for a while]. "A secret like that only gets heavier," '
        "{f.he} said. \"[I'll come with you.|Tell the truth, and it will be lighter.|Shall we go "
        'together?]"',
    )
    s.paragraph()
    s.say(
        "so {h} [took a deep breath|walked slowly to the kitchen] and [showed {mum} the "
        'pieces|told {mum} the truth]. "I broke it, and then I lied," {h.he} said. "I\'m '
        '[so|very] sorry."',
        '{mum} [was quiet for a moment|knelt down]. "[I am sad about the {breakable}|It was '
        'only a {breakable}]," {parent_he} said, "but I am [proud|glad] that you told me."',
        "then they [got out the glue|sat at the table with a pot of glue] and put the pieces "
        "together. [one crack still showed, like a thin line on a map|it was not perfect, but it "
        "could hold flowers again].",
        "{h} [felt as light as a feather|could breathe again|put a flower in it].",
    )
    ending(
        s,
        "the truth is easier to carry than a lie",
        "saying sorry can mend more than glue can",
        "it takes courage to tell the truth",
    )


def baking(s):
    s.know(
        **s.pick(
            [
                dict(cake="a honey cake", mix="salt", meant="sugar", taste="as salty as the sea"),
                dict(
                    cake="a spice cake",
                    mix="pepper",
                    meant="cinnamon",
                    taste="so hot that it made {f} sneeze nine times",
                ),
                dict(
                    cake="an apple cake",
                    mix="mustard",
                    meant="honey",
                    taste="very strange and very yellow",
                ),
                dict(cake="a nut cake", mix="beans", meant="nuts", taste="rather like soup"),
            ]
        ),
        why=s.pick(
            [
                "it was the birthday of {elder}",
                "{wise} had been ill and was getting better",
                "{g} was coming home from a long trip",
            ]
        )
    )
    s.know(
        guest=(
            "{elder}"
            if "birthday" in s.facts["why"]
            else "{wise}" if "ill" in s.facts["why"] else "{g}"
        )
    )
    s.say(
        "{one_morning}, {h} [had an idea|jumped out of bed]. {why}. \"[I will bake|Let's bake] "
        '{cake}!" said {h}.',
        "{f} came to help. {f.he} [brought six eggs in a basket|tied on an apron that was much "
        "too big|promised to lick the spoon].",
    )
    s.paragraph()
    s.say(
        "they [mixed the flour and the butter|stirred and stirred] until [there was flour on the "
        "ceiling|their arms were tired|even their noses were white].",
        "then {h} reached for the {meant}. but {h.he} was [talking|singing|in a hurry], and "
        "{h.he} [did not read the label|took the wrong jar|did not look]. in went a whole cup of "
        "{mix}!",
        "soon the cake was done. it [looked wonderful|was round and golden|smelled a little odd].",
        "{f} took the first bite. {f.his} eyes went [wide|as round as plates]. it tasted {taste}!",
    )
    s.paragraph()
    s.say(
        '{h} [wanted to cry|sat down on the floor|hid {h.his} face]. "[I spoiled it|It is '
        'ruined|Now we have no cake]," {h.he} said.',
        "but {f} began to [laugh|giggle], and {f.he} laughed so hard that {h} had to laugh too.",
        '"[We still have four eggs|There is still some flour|The day is not over]," said {f}. '
        '"[Let\'s try again|This time we will taste everything first]."',
        "this time {h} [read every label aloud|put a tiny bit of everything on {h.his} "
        "tongue|worked slowly], and {f} [checked the jars|held the spoon|counted the eggs].",
    )
    s.paragraph()
    s.say(
        "the second cake was [a bit crooked|small|lower on one side], but it tasted [like "
        "sunshine|just right|better than any other cake].",
        "when {guest} heard about the cup of {mix}, [everyone laughed until their sides hurt|the "
        "whole table laughed|there was a great laugh].",
        '["I think I will remember the first cake longest," said {guest}|"Next year, may I '
        'try the first one?" asked {guest}|"This is the best gift of all," said {guest}].',
    )
    s.maybe(
        0.4,
        "and what about the first cake? [the goat next door ate every crumb of it|even the birds "
        "would not touch it|they used it to hold the door open].",
    )
    ending(
        s,
        "a mistake can be the start of a good story",
        "it is all right to try again",
        "it pays to go slowly",
        "work is twice as good when you can laugh about it",
    )


def seed(s):
    s.know(plant=s.pick(["sunflower", "pumpkin", "apple tree", "bean plant", "rose"]))
    s.say(
        '{one_day}, {wise} gave {h} a [tiny|small brown|round] seed. "[Put it in the ground and '
        'wait|Be good to it]," said {wise}. "[It will surprise you|There is something big '
        'inside]."',
        "{h} [dug a hole near {spot}|found a sunny place near {spot}], [put the seed in|laid it "
        "down gently], and gave it some water.",
    )
    s.paragraph()
    s.say(
        "the next morning {h} ran to look. [nothing|there was only mud]. {h.he} ran back after "
        "lunch. still nothing.",
        '"[Grow|Hurry up], seed!" said {h}. {h.he} [sang to it|told it a story|blew warm air '
        "on it], but the seed did not [hurry|listen].",
        "on the third day {h} was [so cross that {h.he} wanted to dig it up|sure that the seed "
        "was asleep for ever|ready to give up].",
        '{f} came by and [laughed kindly|sat down beside {h.him}]. "[You did not grow up in '
        'three days|Under the ground it is busy|My {elder_word} says seeds are shy]," said {f}. '
        '"Let\'s [give it water every day and count|play something while we wait]."',
    )
    s.paragraph()
    s.say(
        "so they waited. [it rained, and it was sunny, and it rained again|one week went by, and "
        "then another|they built a little fence of sticks around the place].",
        "then, one bright morning, there was a [green dot|thin green line] in the brown earth. "
        '"It\'s here!" {h} [shouted|cried] so loudly that {f} came running [with {f.his} '
        "breakfast in {f.his} {f.hand}].",
        "week by week it grew, and in the end it was a [tall|strong|fine] {plant}.",
    )
    s.say(
        {
            "sunflower": "it was taller than {mum}, and the bees loved it. {h} kept the new "
            "seeds and gave one to {f}.",
            "pumpkin": "it was so big that {h} and {f} could both sit on it. it made enough soup "
            "for everyone {in_place}.",
            "apple tree": "it was only as high as {h.his} knee, but {wise} said that one day "
            "there would be apples. now {h} did not mind waiting.",
            "bean plant": "it climbed up a stick and over the wall. {h} and {f} picked a whole "
            "bowl of beans and shared them.",
            "rose": "it had one {colour} flower. {h} gave it to {mum}, and the whole {home} "
            "smelled of summer.",
        }[s.facts["plant"]]
    )
    s.maybe(
        0.5, '{wise} [nodded|smiled]. "I told you there was something big inside," {wise_he} said.'
    )
    ending(
        s,
        "good things take time",
        "a little care every day goes a long way",
        "waiting is easier with a friend",
        "small things can grow big",
    )


def sharing(s):
    s.know(
        **s.pick(
            [
                dict(snack="one last apple", the_snack="the apple"),
                dict(snack="one small loaf of bread", the_snack="the bread"),
                dict(snack="one slice of {food_simple}", the_snack="the {food_simple}"),
            ]
        ),
        food_simple=s.pick(["cheese", "cake", "pie"])
    )
    s.know(
        **s.pick(
            [
                dict(
                    needy="an old goose",
                    the_needy="the old goose",
                    needy_he="she",
                    back="brought a soft feather bed",
                ),
                dict(
                    needy="a thin gray mouse",
                    the_needy="the thin gray mouse",
                    needy_he="he",
                    back="brought a bag of nuts as big as himself",
                ),
                dict(
                    needy="a tired traveler",
                    the_needy="the traveler",
                    needy_he="she",
                    back="brought a sack of sweet pears",
                ),
            ]
        )
    )
    s.say(
        "[it was a long walk|{one_day}, {h} was on the way] from {spot} to {spot2}, and there "
        "was only {snack} in {h}'s bag. {h} was [very hungry|saving it for later|looking forward "
        "to it].",
        "by the path sat {needy}. {needy_he} [looked cold|had not eaten since yesterday|could "
        "hardly walk].",
        '"[Good day|Hello]," said {h}. "[Are you all right|Why are you sitting here]?"',
        '"I have come a long way, and I have nothing to eat," said the stranger.',
    )
    s.paragraph()
    s.say(
        '{h} [looked at|thought of] {the_snack}. {h.his} tummy [rumbled|growled]. "If I give it '
        'away, I will have none," {h.he} thought. "But [if I keep it, I will think about it '
        'all night|half is better than none|two can be a little hungry together]."',
        "so {h.he} [broke it in two|cut it in half] and gave the bigger half to the stranger.",
        "they ate together and [talked about the weather|watched the clouds|told each other "
        'stories]. the stranger said, "[I will not forget this|You have a good heart]."',
    )
    s.paragraph()
    s.say(
        "months went by, and [winter came|the snow came]. it was so cold that [the river "
        "froze|even the wind seemed to shiver], and {mum} looked into the empty cupboard and "
        "sighed.",
        'then there was a knock at the door. {h} opened it. there stood {the_needy}! "You gave '
        'me half of what you had," said the stranger. "Now let me give you half of what I '
        'have."',
        "the stranger had {back}, and [a pot of honey too|a story for every evening|a warm smile].",
        "{h} [could not believe {h.his} eyes|called {f} over|danced around the table], and that "
        "night [nobody went to bed hungry|they were warm and full|{f} came to eat with them].",
    )
    ending(
        s,
        "kindness finds its way home",
        "what you share comes back to you",
        "half is plenty when you share it",
    )


def treehouse(s):
    s.know(
        build=s.pick(
            ["a tree house", "a raft", "a stone tower", "a bridge of stones", "a hut of branches"]
        )
    )
    s.know(the_build="the " + s.facts["build"].removeprefix("a "))
    s.know(
        it_fell={
            "a tree house": "the floor tipped over",
            "a raft": "the logs floated apart",
            "a stone tower": "the top slid down",
            "a bridge of stones": "the water pushed the stones away",
            "a hut of branches": "the roof fell in",
        }[s.facts["build"]],
        fix={
            "a tree house": "tie the boards to the strong branches",
            "a raft": "tie every log twice with rope",
            "a stone tower": "make the bottom much wider",
            "a bridge of stones": "lay the biggest stones first",
            "a hut of branches": "lean the long branches against each other",
        }[s.facts["build"]],
    )
    s.say(
        '{h} wanted to build {build} near {spot}. "It will be the best one in the world," '
        "{h.he} [told {f}|said|thought].",
        '"I can help," [said|offered] {f}. but {h} shook {h.his} head. "[I know how to do '
        'it|I want to do it all by myself|You would only get in the way]," {h.he} said.',
        "{f} [walked away slowly|went home with {f.his} head down|said nothing and left].",
    )
    s.paragraph()
    s.say(
        "{h} worked [all morning|until noon|very hard]. {h.he} [carried|pulled|pushed] and "
        "[lifted|stacked], and at last it was done. {h.he} stepped back to look.",
        "[Creak! Crack! Bump!|There was a small noise, and then a big one.|Plop!] {it_fell}, and "
        "{h} sat in the middle of [it all|a great mess].",
        "{h.he} tried again, and {it_fell} again. [{h} kicked a stone|{h.his} eyes filled with "
        "tears]. [some jobs are too big for two {hands}|{h.he} had no more ideas].",
    )
    s.paragraph()
    s.say(
        "then {h} thought of {f}. {h.he} [ran all the way to {f.his} {home}|went to find {f} "
        'near {spot2}]. "I was [rude|wrong|proud], and I\'m sorry," said {h}. "[Will you help '
        "me?|I can't do it without you.]\"",
        '{f} [smiled at once|thought for a moment and nodded]. "I have an idea," {f.he} said. '
        '"We should {fix}."',
        "{g} came too, and [brought some rope|brought a jug of juice|sang a working song]. one "
        "held, one pushed, and one tied the knots.",
    )
    s.paragraph()
    s.say(
        "when the sun was low, {the_build} was ready, [straight and strong|firm and fine]. "
        "nothing [fell|even shook] when all three of them [jumped up and down|cheered].",
        '"It\'s [ours|better than I dreamed]," said {h}. {h.he} painted three names on a board: '
        "{h}, {f} and {g}.",
    )
    ending(
        s,
        "many {hands} make a big job small",
        "asking for help is not weak, it is wise",
        "things built together stand longest",
    )


PLOTS = [lost_thing, broken_thing, baking, seed, sharing, treehouse]
