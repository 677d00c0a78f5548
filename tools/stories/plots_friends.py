"""Plots about friends: a quarrel, a newcomer, a secret, a contest, a kind neighbour."""

from stories.world import CLOTH, ending


def quarrel(s):
    s.know(thing=s.pick(CLOTH), full_thing="{colour} {thing}")
    s.know(
        **s.pick(
            [
                dict(matter="who could have the {full_thing} first", unit="thing"),
                dict(matter="which game to play", unit="game"),
                dict(matter="who had run faster to {spot}", unit="race"),
                dict(matter="who should be captain", unit="captain"),
            ]
        )
    )
    s.say(
        "{h}'s best friend was {f}, a {f.what}. they [did everything together|met every day at "
        "{spot}|had been friends since they were very small].",
        "but {one_day} they began to quarrel about {matter}.",
        '"[Me|I decide]!" said {h}. "No, [me|I do]!" said {f}. their voices got [louder and '
        "louder|so loud that the birds flew away].",
    )
    if s.facts["unit"] == "thing":
        s.say(
            "{h} pulled on one side of the {thing}, and {f} pulled on the other. Rip! A little "
            "piece came off."
        )
    s.say(
        '"I don\'t want to be your friend any more!" [shouted|cried] {h}. {f} [turned round and '
        "walked away|ran home without a word|went red and stamped off]."
    )
    s.paragraph()
    s.say(
        "at first {h} was [angry|glad to be alone]. {h.he} [kicked the leaves|sat by {spot2} "
        "with folded arms].",
        "but [soon it was very quiet|there was nobody to laugh with|half of every game was "
        "missing]. {h.he} saw [a cloud like a whale|a funny beetle|a frog with a leaf on its "
        "head] and turned to tell {f}, but {f} was not there.",
        '{h.he} asked {wise} what to do. "What is more important," said {wise}, "[your friend '
        'or being right|being first or having {f}]?"',
    )
    s.paragraph()
    s.say(
        "{h} knew the answer. {h.he} [picked a bunch of flowers|took {h.his} favorite picture "
        "book|put two pieces of cake in a bag] and went to look for {f}.",
        "halfway there, {h.he} met {f}, who was [coming the other way|on the way to {h.him}] "
        "with [a {colour} balloon|a drawing of the two of them|a handful of berries].",
        '"I\'m sorry," they both said at the very same time. then they [both laughed|burst out '
        "laughing|hugged].",
    )
    s.say(
        {
            "thing": "together they mended the {thing} with a {colour} thread, and they agreed "
            "to take turns. {f} went first, because {h} said so.",
            "game": '"Let\'s play your game today and mine tomorrow," said {h}. "No, yours '
            'first," said {f}, and they almost began to quarrel again.',
            "race": '"You were faster," said {h}. "No, you were," said {f}. so they ran back '
            "side by side and arrived at the same time.",
            "captain": '"You be captain today," said {h}. "A ship can have two captains," '
            "said {f}, and so it had.",
        }[s.facts["unit"]]
    )
    ending(
        s,
        "it is better to be a friend than to be right",
        "a quarrel ends when someone says sorry",
        "taking turns makes a game last longer",
    )


def newcomer(s):
    s.know(
        likes=s.pick(
            [
                "collecting round stones",
                "drawing birds",
                "making paper boats",
                "looking at the stars",
                "playing the flute",
                "catching falling leaves",
            ]
        )
    )
    s.say(
        "{one_morning}, a new family moved in near {spot}. with them came {f.intro}.",
        "{f} [stood by the gate and looked at {f.his} feet|did not know anybody|sat alone under "
        "a tree].",
        'the others [whispered|went on with their game]. "[{f.He} talks in a funny way|{f.He} '
        "looks different|We don't know {f.him}],\" said {g}.",
    )
    s.paragraph()
    s.say(
        "{h} [remembered how it feels to be alone|felt sorry for {f}|wondered what {f} was "
        "thinking]. {h.he} [took a deep breath|put down the ball] and walked over.",
        '"Hello. I\'m {h}," {h.he} said. "[Do you want to play|What do you like to do]?"',
        '{f} [looked up|smiled a tiny smile]. "I like {likes}," {f.he} [whispered|said].',
        '"[Really? Me too!|I have never tried that. Will you show me?|So does my {parent}!]" '
        "said {h}.",
    )
    s.paragraph()
    s.say(
        "so the two of them spent the whole [morning|afternoon] {likes} near {spot2}. {f} knew "
        "[a great deal about it|many tricks], and {h} [asked question after question|laughed a "
        "lot].",
        'after a while {g} [came closer|stopped the game and watched]. ["Can I try it too?" '
        'asked {g}.|"What are you two doing?" asked {g}.|"That looks like fun," said {g}.]',
        "{h} looked at {f}, and {f} [nodded|moved over to make room]. soon [everyone was "
        "there|there was a whole circle of friends].",
    )
    s.paragraph()
    s.say(
        "when it was time to go home, {f} gave {h} [a smooth white stone|a {colour} ribbon|a "
        'drawing with both their names on it]. "This morning I had no friends here," {f.he} '
        'said. "[Now I have you|Now I have more than I can count]."',
        '{g} [looked at the ground|went pink]. "I\'m sorry that I did not say hello," {g.he} '
        'said. "[Tomorrow I will save you a place.|Will you come again tomorrow?]"',
    )
    ending(
        s,
        "a friend is only a hello away",
        "someone new may be your next best friend",
        "it takes just one kind word to make a place feel like home",
    )


def secret(s):
    s.know(hideout=s.pick(["{spot2}", "{spot3}"]))
    s.say(
        "[this week|for some days now] {f} had been [strange|different]. when {h} came near, {f} "
        "[stopped talking|hid something behind {f.his} back|said {f.he} had no time].",
        '"Do you want to play at {spot}?" asked {h}. "[Not today|I can\'t]," said {f}, and '
        "[hurried away|ran off with {g}].",
        '{h} [felt a lump in {h.his} throat|was sad]. "[Maybe {f} does not like me any '
        'more,|What did I do wrong?]" {h.he} thought.',
    )
    s.paragraph()
    s.say(
        "the next day {h} saw {f} and {g} near {hideout}. they were [whispering|carrying a big "
        "box|laughing about something].",
        "{h} [walked home with slow steps|wanted to shout at them|hid behind a bush and cried a "
        "little].",
        '{mum} [saw {h.his} face|sat down next to {h.him}]. "[Sometimes we see half of a thing '
        'and guess the other half wrong|Before you are angry, ask]," said {mum}. "Do you know '
        'what day it is tomorrow?"',
        "{h} [was too sad to think about it|shook {h.his} head and went to bed].",
    )
    s.paragraph()
    s.say(
        'in the morning there was a note at the door. it said: "Come to {hideout}." {h} went, '
        "[with a beating heart|slowly].",
        '"Surprise!" [shouted|called] {f} and {g}, and [all the others|everyone {h} knew] '
        "jumped up. there were [lanterns in the trees|{colour} ribbons everywhere|flowers on a "
        "long table], and a cake with {h}'s name on it. it was {h}'s birthday!",
        '"I wanted to tell you so much," said {f}. "[Keeping it in was the hardest thing I '
        'have ever done|I am bad at secrets, so I had to run away from you]."',
        "{h} [laughed and cried at once|felt silly and happy at the same time]. {h.he} had "
        "thought [that {h.he} was alone|the worst], and all that time {h.his} friends had been "
        "thinking of {h.him}.",
    )
    s.maybe(
        0.6,
        'then {f} gave {h.him} a [small|round|long] parcel. inside was a {full_thing}. "[I made '
        'it myself|It took all week]," said {f}.',
    )
    ending(
        s,
        "it is better to ask than to guess",
        "friends think of you even when you can't see it",
        "some secrets are happy ones",
    )


def contest(s):
    s.know(
        **s.pick(
            [
                dict(
                    event="the great boat race",
                    trouble="{g}'s boat hit a stone and began to fill with water",
                    help="threw {g} a rope and pulled {g.him} to the shore",
                ),
                dict(
                    event="the running race to {spot}",
                    trouble="{g} fell and hurt {g.his} knee",
                    help="helped {g} up and let {g.him} lean on {h.his} shoulder",
                ),
                dict(
                    event="the sack race",
                    trouble="{g} tripped over {g.his} sack and rolled into a ditch",
                    help="climbed down and pulled {g} out",
                ),
                dict(
                    event="the swimming race",
                    trouble="{g} got a cramp in {g.his} leg",
                    help="swam back and pulled {g} to the shore",
                ),
            ]
        )
    )
    s.say(
        "everyone [for miles around|{h} knew|young and old] was talking about {event}. the prize "
        "was a [golden cup|basket full of cakes|big {colour} ribbon].",
        "{h} wanted to win [more than anything|so much that {h.he} dreamed about it]. {h.he} "
        "trained every day, [in sun and in rain|before breakfast and after dinner], and {f} "
        "[cheered for {h.him}|counted the seconds].",
        '{g} wanted to win too. "[You will only see my back|I always win]," {g.he} [said|boasted].',
    )
    s.paragraph()
    s.say(
        'the day came. [flags waved|a drum beat|everyone was there]. "Ready, steady, go!" '
        "called {wise}.",
        "{h} [was off like an arrow|started well], and soon {h.he} and {g} were far ahead of the "
        'others. [the crowd cheered|"Go, {h}!" shouted {f}|nobody could tell who would win].',
        'then {trouble}. "Help!" called {g}.',
        "{h} could see the finish. [nobody was in front of {h.him}|{h.he} only had to keep "
        "going|the prize was so close]. but {h.he} [looked back|heard that voice again and "
        "stopped].",
    )
    s.paragraph()
    s.say(
        "{h} did not think twice. {h.he} {help}. [others passed them|one after another went by], "
        "but {h} [did not mind|did not let go|kept on helping].",
        '"Why did you stop?" asked {g}. "[You could have won|I would not have stopped for you]."',
        '"[Because you called|There will be another race, but there is only one you|It would '
        'not have felt like winning]," said {h}.',
        "they came in last, [side by side|laughing and out of breath].",
    )
    s.paragraph()
    s.say(
        "but then something strange happened. the crowd [stood up and clapped|cheered louder "
        "than before]. {wise} came with the prize, and the winner, [{f}'s cousin|who was only "
        'six], said, "I was fast, but {h} was kind. Let us share it."',
        "{g} [shook {h}'s {h.hand}|took off {g.his} cap]. \"Next time I will [stop for you|be a "
        'better friend]," {g.he} said.',
    )
    ending(
        s,
        "there are better things than winning",
        "helping someone is worth more than a prize",
        "you can come last and still win",
    )


def kind_neighbor(s):
    s.know(
        gift=s.pick(["a pot of soup", "a bunch of wild flowers", "a jar of jam", "some firewood"]),
        odd=s.pick(
            ["never smiled", "shouted at anyone who came near", "always kept the door shut"]
        ),
    )
    s.know(
        **s.pick(
            [
                dict(n="Mr. Crumb", nh="he", nhis="his", nhim="him"),
                dict(n="Mrs. Thorn", nh="she", nhis="her", nhim="her"),
            ]
        )
    )
    s.say(
        "near {spot} lived {n}. {nh} {odd}, and everyone was a little afraid of {nhim}.",
        '"[Don\'t go there|{n} is mean]," said {f}. but {h} [wondered why|was not so sure|had '
        "seen {n} feed the birds once].",
    )
    s.paragraph()
    s.say(
        "{one_day}, {h} noticed that [there was no smoke from the chimney|the window was "
        "dark|nobody had opened the door for two days].",
        '"Something is wrong," said {h}. {f} [wanted to go home|held on to {h}\'s arm|was '
        "scared], but {f.he} [came along|went with {h.him} all the same].",
        'they knocked. "Go away!" called a weak voice. then there was a cough. {h} [opened the '
        "door a little|looked in]. {n} was lying in bed, [pale and tired|shaking with cold].",
    )
    s.paragraph()
    s.say(
        "{h} ran home and told {mum}. soon {h.he} was back with {gift}, and {f} [brought a thick "
        "blanket|swept the floor|made a fire].",
        "day after day they came. they [read aloud to {nhim}|told {nhim} the news|opened the "
        "windows], and day after day {n} [coughed a little less|sat up a little higher].",
        '"Why are you so good to me?" asked {n}. "I was never good to you."',
        '"[Maybe nobody was good to you first|Someone has to start|We thought you might be '
        'lonely]," said {h}.',
    )
    s.paragraph()
    s.say(
        "{n} was quiet for a long time. then {nh} [wiped {nhis} eyes|smiled, and it was like the "
        "sun coming out|laughed for the first time in years].",
        "when {nh} was well again, {nh} [opened the garden gate and never shut it|taught them to "
        "[play chess|carve wood|name the stars]|baked bread for everyone on Sundays].",
        '"I used to be afraid of {nhim}," said {f}. "[Now {nh} tells the best stories|I think '
        '{nh} was afraid of us too]."',
    )
    ending(
        s,
        "a cross face may hide a lonely heart",
        "kindness can open any door",
        "you should not believe all you hear about someone",
    )


PLOTS = [quarrel, newcomer, secret, contest, kind_neighbor]
