"""The words of the stories in English, French and Chinese, with what their forms depend on: gender, plural, measure."""

from __future__ import annotations

from typing import NamedTuple


class Person(NamedTuple):
    en: str
    zh: str
    female: bool

    @property
    def fr(self) -> str:
        return self.en


class Job(NamedTuple):
    en: str
    fr: str  # masculine
    fr_feminine: str
    zh: str


class City(NamedTuple):
    en: str
    fr: str
    zh: str


class Thing(NamedTuple):
    en: str
    en_plural: str
    fr: str
    fr_plural: str
    feminine: bool
    zh: str
    measure: str  # the word that Chinese puts between a number and this thing


class Adjective(NamedTuple):
    en: str
    fr: tuple[str, str, str, str]  # masculine, feminine, masculine plural, feminine plural
    zh: str


class Verb(NamedTuple):
    en: str
    en_present: str
    fr: str  # past participle
    zh: str


class Group(NamedTuple):
    """People around somebody, of whom only their number matters."""

    en: str
    fr: str
    zh: str
    plural: bool


class Phrase(NamedTuple):
    en: str
    fr: str
    zh: str


def _adjective(en: str, masculine: str, feminine: str, zh: str, plural: str = "") -> Adjective:
    return Adjective(en, (masculine, feminine, plural or masculine + "s", feminine + "s"), zh)


PERSON = (
    Person("Anna", "安娜", True),
    Person("Emma", "爱玛", True),
    Person("Julia", "朱莉娅", True),
    Person("Lucy", "露西", True),
    Person("Nina", "尼娜", True),
    Person("Rosa", "罗莎", True),
    Person("Adam", "亚当", False),
    Person("David", "大卫", False),
    Person("Hugo", "雨果", False),
    Person("Leo", "里奥", False),
    Person("Simon", "西蒙", False),
    Person("Victor", "维克多", False),
)
JOB = (
    Job("baker", "boulanger", "boulangère", "面包师"),
    Job("farmer", "fermier", "fermière", "农民"),
    Job("teacher", "professeur", "professeure", "老师"),
    Job("singer", "chanteur", "chanteuse", "歌手"),
    Job("painter", "peintre", "peintre", "画家"),
    Job("dancer", "danseur", "danseuse", "舞者"),
    Job("lawyer", "avocat", "avocate", "律师"),
    Job("nurse", "infirmier", "infirmière", "护士"),
)
CITY = (
    City("Paris", "Paris", "巴黎"),
    City("London", "Londres", "伦敦"),
    City("Rome", "Rome", "罗马"),
    City("Berlin", "Berlin", "柏林"),
    City("Madrid", "Madrid", "马德里"),
    City("Tokyo", "Tokyo", "东京"),
    City("New York", "New York", "纽约"),
    City("Buenos Aires", "Buenos Aires", "布宜诺斯艾利斯"),
)
THING = (
    Thing("hat", "hats", "chapeau", "chapeaux", False, "帽子", "顶"),
    Thing("book", "books", "livre", "livres", False, "书", "本"),
    Thing("knife", "knives", "couteau", "couteaux", False, "刀", "把"),
    Thing("fish", "fish", "poisson", "poissons", False, "鱼", "条"),
    Thing("horse", "horses", "cheval", "chevaux", False, "马", "匹"),
    Thing("pen", "pens", "stylo", "stylos", False, "笔", "支"),
    Thing("shirt", "shirts", "chemise", "chemises", True, "衬衫", "件"),
    Thing("table", "tables", "table", "tables", True, "桌子", "张"),
    Thing("flower", "flowers", "fleur", "fleurs", True, "花", "朵"),
    Thing("mouse", "mice", "souris", "souris", True, "老鼠", "只"),
    Thing("lamp", "lamps", "lampe", "lampes", True, "灯", "盏"),
    Thing("car", "cars", "voiture", "voitures", True, "汽车", "辆"),
)
COLOUR = (
    _adjective("red", "rouge", "rouge", "红色"),
    _adjective("green", "vert", "verte", "绿色"),
    _adjective("blue", "bleu", "bleue", "蓝色"),
    _adjective("white", "blanc", "blanche", "白色"),
    _adjective("black", "noir", "noire", "黑色"),
    _adjective("grey", "gris", "grise", "灰色", "gris"),
)
QUALITY = (
    _adjective("small", "petit", "petite", "小"),
    _adjective("big", "grand", "grande", "大"),
    _adjective("old", "vieux", "vieille", "旧", "vieux"),
    _adjective("pretty", "joli", "jolie", "漂亮"),
    _adjective("heavy", "lourd", "lourde", "重"),
    _adjective("light", "léger", "légère", "轻"),
    _adjective("strange", "étrange", "étrange", "奇怪"),
    _adjective("beautiful", "beau", "belle", "美", "beaux"),
    _adjective("perfect", "parfait", "parfaite", "完美"),
    _adjective("expensive", "cher", "chère", "贵"),
    _adjective("ugly", "laid", "laide", "丑"),
    _adjective("clean", "propre", "propre", "干净"),
    _adjective("dirty", "sale", "sale", "脏"),
    _adjective("rare", "rare", "rare", "稀奇"),
    _adjective("soft", "doux", "douce", "软", "doux"),
    _adjective("modern", "moderne", "moderne", "时髦"),
)
FEELING = (
    _adjective("happy", "content", "contente", "高兴"),
    _adjective("sad", "triste", "triste", "难过"),
    _adjective("tired", "fatigué", "fatiguée", "累"),
    _adjective("proud", "fier", "fière", "骄傲"),
    _adjective("angry", "fâché", "fâchée", "生气"),
    _adjective("calm", "calme", "calme", "平静"),
    _adjective("jealous", "jaloux", "jalouse", "嫉妒", "jaloux"),
    _adjective("surprised", "surpris", "surprise", "惊讶", "surpris"),
    _adjective("curious", "curieux", "curieuse", "好奇", "curieux"),
    _adjective("nervous", "nerveux", "nerveuse", "紧张", "nerveux"),
    _adjective("lonely", "seul", "seule", "孤单"),
    _adjective("patient", "patient", "patiente", "耐心"),
)
GOT = (
    Verb("bought", "buys", "acheté", "买"),
    Verb("found", "finds", "trouvé", "找到"),
    Verb("won", "wins", "gagné", "赢"),
    Verb("received", "receives", "reçu", "收到"),
    Verb("borrowed", "borrows", "emprunté", "借"),
    Verb("drew", "draws", "dessiné", "画"),
    Verb("stole", "steals", "volé", "偷"),
    Verb("ordered", "orders", "commandé", "订"),
)
LOST = (
    Verb("lost", "loses", "perdu", "丢"),
    Verb("sold", "sells", "vendu", "卖"),
    Verb("hid", "hides", "caché", "藏"),
    Verb("forgot", "forgets", "oublié", "忘"),
)
GROUP = (
    Group("brother", "le frère", "哥哥", False),
    Group("brothers", "les frères", "兄弟们", True),
    Group("sister", "la sœur", "姐姐", False),
    Group("sisters", "les sœurs", "姐妹们", True),
    Group("neighbour", "le voisin", "邻居", False),
    Group("neighbours", "les voisins", "邻居们", True),
)
DAY = (
    Phrase("This morning", "Ce matin", "今天早上"),
    Phrase("Last week", "La semaine dernière", "上周"),
    Phrase("Last year", "L'année dernière", "去年"),
    Phrase("Yesterday", "Hier", "昨天"),
    Phrase("In May", "En mai", "五月"),
    Phrase("In winter", "En hiver", "冬天"),
    Phrase("On Monday", "Lundi", "星期一"),
    Phrase("On Sunday", "Dimanche", "星期天"),
    Phrase("Last night", "Hier soir", "昨晚"),
    Phrase("In spring", "Au printemps", "春天"),
    Phrase("At Easter", "À Pâques", "复活节"),
    Phrase("Long ago", "Il y a longtemps", "很久以前"),
)
THEN = (
    Phrase("Later", "Plus tard", "后来"),
    Phrase("Soon", "Bientôt", "不久"),
    Phrase("Then", "Puis", "然后"),
    Phrase("At noon", "À midi", "中午"),
    Phrase("That evening", "Ce soir-là", "那天晚上"),
    Phrase("The next day", "Le lendemain", "第二天"),
    Phrase("Suddenly", "Soudain", "突然"),
    Phrase("At midnight", "À minuit", "半夜"),
    Phrase("In secret", "En secret", "暗中"),
    Phrase("In silence", "En silence", "默默地"),
    Phrase("By mistake", "Par erreur", "一不小心"),
    Phrase("After lunch", "Après le déjeuner", "午饭后"),
)
REASON = (
    Phrase("it was raining", "il pleuvait", "下雨了"),
    Phrase("the train was late", "le train était en retard", "火车晚点了"),
    Phrase("the sun was shining", "le soleil brillait", "出太阳了"),
    Phrase("summer was near", "l'été approchait", "夏天快到了"),
    Phrase("the shops were closed", "les magasins étaient fermés", "商店关门了"),
    Phrase("music was playing", "on jouait de la musique", "有人在演奏音乐"),
    Phrase("nobody had called", "personne n'avait appelé", "没有人打电话来"),
    Phrase("dinner was ready", "le dîner était prêt", "晚饭做好了"),
    Phrase("snow was falling", "la neige tombait", "下雪了"),
    Phrase("the door was open", "la porte était ouverte", "门开着"),
    Phrase("the moon was full", "la lune était pleine", "月亮很圆"),
    Phrase("winter was over", "l'hiver était fini", "冬天过去了"),
)
GOOD = (
    Phrase("wonderful", "", ""),
    Phrase("moving", "", ""),
    Phrase("funny", "", ""),
    Phrase("clever", "", ""),
    Phrase("charming", "", ""),
    Phrase("brilliant", "", ""),
)
BAD = (
    Phrase("boring", "", ""),
    Phrase("stupid", "", ""),
    Phrase("dreadful", "", ""),
    Phrase("confused", "", ""),
    Phrase("tiresome", "", ""),
    Phrase("clumsy", "", ""),
)
WORK = tuple(Phrase(work, "", "") for work in ("film", "book", "play", "song", "poem", "show"))
