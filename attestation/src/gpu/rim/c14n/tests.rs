use super::super::xml::{Document, Element};
use super::canonical;

fn whole(text: &str) -> String {
    let document = Document::parse(text.as_bytes()).unwrap();
    String::from_utf8(canonical(document.root().unwrap(), None)).unwrap()
}

#[test]
fn documents_have_one_form() {
    // The examples of Canonical XML 1.1, §3, as far as they need no document type, and what the
    // reader accepts beside.
    for (case, text, want) in [
        ("empty element", "<a/>", "<a></a>"),
        (
            "around the document",
            "<?xml version=\"1.0\"?>\n\n<a/>\n\n",
            "<a></a>",
        ),
        (
            "white space inside stays",
            "<a> <b>\n </b>  </a>",
            "<a> <b>\n </b>  </a>",
        ),
        (
            "start and end tags",
            "<e3   name = \"elem3\"   id=\"elem3\"   />",
            "<e3 id=\"elem3\" name=\"elem3\"></e3>",
        ),
        (
            "attributes: namespaces first, then by namespace and local name",
            "<e5 a:attr=\"out\" b:attr=\"sorted\" attr2=\"all\" attr=\"I'm\" \
             xmlns:b=\"http://www.ietf.org\" xmlns:a=\"http://www.w3.org\" \
             xmlns=\"http://example.org\"/>",
            "<e5 xmlns=\"http://example.org\" xmlns:a=\"http://www.w3.org\" \
             xmlns:b=\"http://www.ietf.org\" attr=\"I'm\" attr2=\"all\" b:attr=\"sorted\" \
             a:attr=\"out\"></e5>",
        ),
        (
            "a default taken back and given again",
            "<e6 xmlns=\"\" xmlns:a=\"http://www.w3.org\"><e7 xmlns=\"http://www.ietf.org\">\
             <e8 xmlns=\"\" xmlns:a=\"http://www.w3.org\"><e9 xmlns=\"\" \
             xmlns:a=\"http://www.ietf.org\"/></e8></e7></e6>",
            "<e6 xmlns:a=\"http://www.w3.org\"><e7 xmlns=\"http://www.ietf.org\">\
             <e8 xmlns=\"\"><e9 xmlns:a=\"http://www.ietf.org\"></e9></e8></e7></e6>",
        ),
        (
            "two prefixes for one namespace are both kept",
            "<n:a xmlns:n=\"urn:x\" xmlns=\"urn:x\"><b/><n:c/></n:a>",
            "<n:a xmlns=\"urn:x\" xmlns:n=\"urn:x\"><b></b><n:c></n:c></n:a>",
        ),
        (
            "siblings do not see each other's",
            "<a><b xmlns:n=\"urn:x\"/><b xmlns:n=\"urn:x\"/></a>",
            "<a><b xmlns:n=\"urn:x\"></b><b xmlns:n=\"urn:x\"></b></a>",
        ),
        (
            "ten comes before two",
            "<a h2=\"\" h10=\"\" h1=\"\"/>",
            "<a h1=\"\" h10=\"\" h2=\"\"></a>",
        ),
        (
            "references in text",
            "<a>&#x31;&#50; &lt;&amp;&gt; &quot;&apos; &#13;\t</a>",
            "<a>12 &lt;&amp;&gt; \"' &#xD;\t</a>",
        ),
        (
            "references in a value",
            "<a v='&lt;&gt;&amp;&quot;&apos;\"&#9;&#xA;&#13;'/>",
            "<a v=\"&lt;>&amp;&quot;'&quot;&#x9;&#xA;&#xD;\"></a>",
        ),
        (
            "white space in a value",
            "<a v='x\ty\r\nz\n'/>",
            "<a v=\"x y z \"></a>",
        ),
        ("line ends", "<a>x\r\ny\rz\n</a>", "<a>x\ny\nz\n</a>"),
        (
            "other characters",
            "<a v='\u{e9}'>\u{1f600}&#233;</a>",
            "<a v=\"\u{e9}\">\u{1f600}\u{e9}</a>",
        ),
        (
            "xml:lang needs no declaration, and has none",
            "<a xml:lang='de' xmlns:xml='http://www.w3.org/XML/1998/namespace' b='1'/>",
            "<a b=\"1\" xml:lang=\"de\"></a>",
        ),
    ] {
        let form = whole(text);
        assert_eq!(form, want, "{case}");
        assert_eq!(whole(&form), form, "{case}: the form of the form");
    }
}

fn find<'d, 'a>(document: &'d Document<'a>, name: &str) -> Element<'d, 'a> {
    let root = document.root().unwrap();
    let mut all = root.descendants();
    all.find(|one| one.attribute("", "id") == Some(name))
        .unwrap()
}

#[test]
fn a_part_brings_what_is_in_scope() {
    let part = |text: &str| {
        let document = Document::parse(text.as_bytes()).unwrap();
        String::from_utf8(canonical(find(&document, "x"), None)).unwrap()
    };
    for (case, text, want) in [
        (
            "namespaces around it, and no sibling's",
            "<a xmlns=\"urn:d\" xmlns:n=\"urn:n\"><b xmlns:s=\"urn:s\"/>\
             <m:c xmlns:m=\"urn:m\"><m:x id='x'/></m:c></a>",
            "<m:x xmlns=\"urn:d\" xmlns:m=\"urn:m\" xmlns:n=\"urn:n\" id=\"x\"></m:x>",
        ),
        (
            "the innermost of a name",
            "<a xmlns:n=\"urn:1\"><b xmlns:n=\"urn:2\"><x id='x'/></b></a>",
            "<x xmlns:n=\"urn:2\" id=\"x\"></x>",
        ),
        (
            "no default, where it was taken back",
            "<a xmlns=\"urn:1\"><b xmlns=\"\"><x id='x'/></b></a>",
            "<x id=\"x\"></x>",
        ),
        (
            "said again inside, only where it differs",
            "<a xmlns:n=\"urn:1\"><x id='x'><y xmlns:n=\"urn:1\"/><y xmlns:n=\"urn:2\"/></x></a>",
            "<x xmlns:n=\"urn:1\" id=\"x\"><y></y><y xmlns:n=\"urn:2\"></y></x>",
        ),
        (
            "language and spacing are inherited, an id is not",
            "<a xml:lang='de' xml:id='q'><b xml:space='preserve' xml:lang='fr'><x id='x'/></b></a>",
            "<x id=\"x\" xml:lang=\"fr\" xml:space=\"preserve\"></x>",
        ),
        (
            "its own language",
            "<a xml:lang='de'><x id='x' xml:lang='en'><y/></x></a>",
            "<x id=\"x\" xml:lang=\"en\"><y></y></x>",
        ),
    ] {
        assert_eq!(part(text), want, "{case}");
    }
}

#[test]
fn what_is_left_out_takes_nothing_else_along() {
    for (case, text, want) in [
        (
            "between texts",
            "<a>\n <b id='x'>c<d/></b>\n </a>",
            "<a>\n \n </a>",
        ),
        ("last", "<a><c/><b id='x'/></a>", "<a><c></c></a>"),
        (
            "before others",
            "<a><b id='x'><d/></b><c>e</c></a>",
            "<a><c>e</c></a>",
        ),
        (
            "deep",
            "<a><c><b id='x'><d/></b></c><e/></a>",
            "<a><c></c><e></e></a>",
        ),
    ] {
        let document = Document::parse(text.as_bytes()).unwrap();
        let left_out = find(&document, "x");
        let form = canonical(document.root().unwrap(), Some(left_out));
        assert_eq!(String::from_utf8(form).unwrap(), want, "{case}");
    }
}
