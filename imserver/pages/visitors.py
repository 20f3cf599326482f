"""Visitors of the pages: their names, languages and parameters, and the
addresses of this server for them."""

import random
import secrets
from typing import Any, Final

from flask import Response, abort, request, url_for

from imserver.pages.address import Addresses, is_host, parse_configured, resolve
from imserver.pages.text import LANGUAGES, choose_language, html_of
from imserver.plugin.errors import Problems
from imserver.plugin.services import Core

_FIGURES: Final = """
黄帝 炎帝 蚩尤 仓颉 嫘祖 后羿 神农 伏羲 女娲 祝融 共工 大禹 伯益 皋陶 商汤 伊尹 武丁
妇好 比干 箕子 周文王 周武王 周公旦 姜子牙 伯夷 叔齐 管仲 鲍叔牙 齐桓公 晋文公 秦穆公
楚庄王 重耳 介子推 百里奚 老子 孔子 颜回 子路 子贡 曾子 墨子 孟子 庄子 荀子 韩非子 列子
惠施 公孙龙 邹衍 鬼谷子 孙武 孙膑 吴起 伍子胥 范蠡 文种 勾践 夫差 西施 扁鹊 鲁班 左丘明
晏婴 子产 蔺相如 廉颇 李牧 乐毅 田单 白起 王翦 商鞅 张仪 苏秦 范雎 吕不韦 李斯 屈原 宋玉
信陵君 孟尝君 平原君 春申君 毛遂 荆轲 高渐离 蒙恬 扶苏 陈胜 吴广 项羽 虞姬 刘邦 吕雉 张良
萧何 韩信 陈平 樊哙 曹参 周勃 贾谊 晁错 董仲舒 司马迁 司马相如 卓文君 东方朔 张骞 苏武
李陵 李广 卫青 霍去病 桑弘羊 霍光 王昭君 班固 班超 班昭 马援 马远 邓禹 张衡 蔡伦 王充
许慎 郑玄 华佗 张仲景 蔡邕 蔡文姬 曹操 曹丕 曹植 郭嘉 荀彧 典韦 张辽 司马懿 刘备 关羽
张飞 赵云 诸葛亮 庞统 马超 黄忠 姜维 孙策 孙权 周瑜 鲁肃 吕蒙 陆逊 大乔 小乔 貂蝉 吕布
嵇康 阮籍 山涛 刘伶 向秀 王戎 陈寿 左思 祖逖 王导 谢安 谢道韫 王羲之 王献之 顾恺之 陶渊明
谢灵运 祖冲之 郦道元 贾思勰 花木兰 刘勰 钟嵘 萧统 魏征 房玄龄 杜如晦 秦琼 尉迟恭 李靖
徐世勣 程咬金 玄奘 孙思邈 文成公主 上官婉儿 狄仁杰 武则天 姚崇 宋璟 张九龄 一行 鉴真 王勃
杨炯 卢照邻 骆宾王 陈子昂 贺知章 孟浩然 王维 李白 杜甫 高适 岑参 王昌龄 张旭 怀素 颜真卿
柳公权 吴道子 公孙大娘 郭子仪 李泌 韩愈 柳宗元 白居易 元稹 刘禹锡 李贺 贾岛 杜牧 李商隐
温庭筠 薛涛 鱼玄机 陆羽 黄巢 李煜 冯道 赵匡胤 赵普 寇准 杨业 佘太君 范仲淹 晏殊 柳永 包拯
狄青 欧阳修 梅尧臣 司马光 王安石 苏洵 苏轼 苏辙 黄庭坚 秦观 米芾 沈括 毕昇 周敦颐 程颢
程颐 张载 蔡襄 李清照 张择端 宗泽 岳飞 韩世忠 梁红玉 陆游 杨万里 范成大 辛弃疾 朱熹 陆九渊
姜夔 文天祥 陆秀夫 宋慈 耶律楚材 丘处机 关汉卿 马致远 郭守敬 黄道婆 赵孟頫 王冕 刘伯温
朱元璋 徐达 施耐庵 罗贯中 方孝孺 郑和 于谦 唐寅 文徵明 祝枝山 王阳明 吴承恩 海瑞 张居正
戚继光 李时珍 徐渭 汤显祖 徐光启 徐霞客 宋应星 袁崇焕 史可法 郑成功 黄宗羲 顾炎武 王夫之
蒲松龄 纳兰性德 方苞 郑板桥 曹雪芹 袁枚 纪晓岚 刘墉 姚鼐 林则徐 魏源 龚自珍 左宗棠 曾国藩
詹天佑
"""

_LATIN_FIGURES: Final = """
Aeschylus Alcuin Anaxagoras Aquinas Archimedes Aristotle Averroes Avicenna Babbage Bach Bacon Bede Beethoven
Bernoulli Boccaccio Boethius Bohr Bolivar Boole Brahe Bronte Brunel Byron Caesar Cervantes Champlain Chaucer
Chopin Cicero Cleopatra Columbus Confucius Cook Copernicus Cromwell Curie Dante Darwin Democritus Descartes
Dickens Diderot Dunant Durer Empedocles Epictetus Epicurus Erasmus Eratosthenes Euclid Euler Euripides Faraday
Fermat Fibonacci Franklin Galen Galileo Galois Gauss Germain Goethe Gutenberg Hamilton Handel Harvey Haydn
Herodotus Herschel Hipparchus Hippocrates Homer Hooke Horace Humboldt Hume Hypatia Ibsen Kant Kepler Khayyam
Lagrange Laplace Lavoisier Leibniz Leonardo Linnaeus Livy Locke Lovelace Lucretius Luther Magellan Maxwell
Mendel Mendeleev Michelangelo Milton Moliere Montaigne More Mozart Nansen Napier Newton Nightingale Nobel Ovid
Pascal Pasteur Pericles Petrarch Plato Pliny Plutarch Poincare Polo Ptolemy Purcell Pushkin Pythagoras
Rabelais Raphael Rembrandt Riemann Rousseau Rumi Saladin Sappho Schiller Schubert Seneca Shakespeare Smith
Socrates Solon Sophocles Spinoza Swift Tacitus Tasman Tesla Thales Thucydides Titian Tolstoy Vermeer Verne
Vesalius Virgil Vitruvius Vivaldi Volta Voltaire Watt Xenophon Zeno
"""

FIGURES: Final = {"zh": tuple(_FIGURES.split()), "en": tuple(_LATIN_FIGURES.split())}
"""Language → names that its readers can type. With an ending, each name fits
into the 19 bytes of a user id."""


_ENDING_SIGNS: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters and digits that nobody confuses with others."""
_ENDING_LENGTH: Final = 6


def pick_name(language: str) -> str:
    """Choose a random name for a visitor, in Chinese or Latin letters.

    Two visitors get the same name only by chance (one in ten billion), because
    a visitor must not see the files of an earlier one.
    """
    ending = "".join(secrets.choice(_ENDING_SIGNS) for _ in range(_ENDING_LENGTH))
    figures = FIGURES.get(language, FIGURES["en"])
    return f"{random.choice(figures)}-{ending}"


class Seen:
    """The addresses of this server in the current request. Stateless."""

    def __init__(self, core: Core) -> None:
        """Read the configured addresses."""
        self._trusts = core.proxies.trusts
        self._node = core.node
        app = core.config.app
        self._websocket = parse_configured(app.websocket_url)
        self._http = parse_configured(app.http_url)

    def addresses(self) -> Addresses:
        """Return the addresses that a page needs.

        Ends the request with 400 if its header Host is not valid.
        """
        host = self._forwarded("Host") or request.headers.get("Host", "")
        if not is_host(host):
            abort(Problems.BAD_REQUEST.status)
        # The ports are read now, because the pages are made before the node
        # listens.
        ports = (self._node.http_port, self._node.ws_port)
        return resolve(host, ports, self._websocket, self._http)

    def http(self) -> str:
        """Return the address of the HTTP interface for this visitor.

        Example: ``https://im.example.com``.
        """
        # An address that begins with // has no scheme.
        configured = self.addresses().http
        if configured and not configured.startswith("//"):
            return configured
        scheme = "https" if self._is_secure() else "http"
        if configured:
            return f"{scheme}:{configured}"
        host = self._forwarded("Host") or request.headers.get("Host", "")
        return f"{scheme}://{host}"

    def websocket(self) -> str:
        """Return the full address of the WebSocket for this visitor."""
        address = self.addresses().websocket
        if not address.startswith("//"):
            return address
        scheme = "wss" if self._is_secure() else "ws"
        return f"{scheme}:{address}"

    def _is_secure(self) -> bool:
        """Whether the visitor uses TLS."""
        scheme = self._forwarded("Proto") or request.scheme
        return scheme.lower() in ("https", "wss")

    def _forwarded(self, name: str) -> str:
        """Return the value of the header ``X-Forwarded-<name>``.

        ``""``: there is no such header, or the request is not from a trusted
        proxy.
        """
        if not self._trusts(request.remote_addr or ""):
            return ""
        # Each proxy adds a value. The first value is that of the visitor's
        # request.
        first, _, _ = request.headers.get(f"X-Forwarded-{name}", "").partition(",")
        return first.strip()


def render(template: str, language: str, **values: Any) -> Response:
    """Render a page as an answer that is not cached.

    ``values``: for the template.
    """
    html = html_of(
        template,
        language,
        request.script_root,
        language_parameter(),
        url_for=url_for,
        **values,
    )
    answer = Response(html)
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Vary"] = "Accept-Language"
    return answer


def language_of_visitor() -> str:
    """Return the visitor's preferred language."""
    return choose_language(language_parameter(), request.accept_languages)


def requested_language() -> str:
    """Return the language in the address, else Chinese."""
    return language_parameter() or LANGUAGES[0]


def parameter(name: str) -> str:
    """Return a parameter of the query or the form; ``""`` if it is missing.

    Its name may be in any letter case in the request. ``name``: in lower case.
    """
    for key, value in request.values.items():
        if key.lower() == name:
            return value
    return ""


def has_parameter(*names: str) -> bool:
    """Whether the query or the form has one of these parameters.

    A parameter with an empty value counts. ``names``: in lower case.
    """
    return any(key.lower() in names for key in request.values)


def language_parameter() -> str:
    """Return the language in the address.

    ``""``: the address names no language, or one that the pages do not have.
    """
    in_address = parameter("lang")
    if in_address in LANGUAGES:
        return in_address
    return ""
