use super::*;

fn refused(text: &str) -> String {
    match Document::parse(text.as_bytes()) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_no_xml_or_more_than_is_read_says_where() {
    for (case, text, want) in [
        ("nothing", "", "XML.element at offset 0: is wanted here"),
        ("text alone", "a", "XML.element at offset 0: is wanted here"),
        (
            "document type",
            "<!DOCTYPE a [<!ENTITY e \"x\">]><a/>",
            "XML.markup at offset 0: is a document type declaration",
        ),
        (
            "comment",
            "<a><!-- --></a>",
            "XML.markup at offset 3: is a comment",
        ),
        (
            "comment before",
            "<!----><a/>",
            "XML.markup at offset 0: is a comment",
        ),
        (
            "comment behind",
            "<a/><!---->",
            "XML.markup at offset 4: is a comment",
        ),
        (
            "instruction",
            "<a><?b?></a>",
            "XML.markup at offset 3: is a processing instruction",
        ),
        (
            "instruction before",
            "<?b?><a/>",
            "XML.markup at offset 0: is a processing instruction",
        ),
        (
            "stylesheet",
            "<?xml-stylesheet?><a/>",
            "XML.markup at offset 0: is a processing instruction",
        ),
        (
            "CDATA",
            "<a><![CDATA[b]]></a>",
            "XML.markup at offset 3: is a CDATA section",
        ),
        (
            "end of CDATA",
            "<a>]]></a>",
            "XML.text at offset 3: holds ]]>",
        ),
        (
            "two documents",
            "<a/><b/>",
            "XML.element at offset 4: a second one stands outermost",
        ),
        (
            "text behind",
            "<a/>b",
            "XML.text at offset 4: stands outside every element",
        ),
        ("no end", "<a>", "XML.element at offset 3: has no end tag"),
        (
            "no end, with text",
            "<a>b",
            "XML.element at offset 4: has no end tag",
        ),
        (
            "tag cut short",
            "<a b=\"c\"",
            "XML.element at offset 8: the tag has no end",
        ),
        (
            "value cut short",
            "<a b=\"c",
            "XML.attribute at offset 6: has no end",
        ),
        (
            "crossed",
            "<a><b></a></b>",
            "XML.end tag at offset 8: is of another element",
        ),
        (
            "another prefix",
            "<n:a xmlns:n=\"urn:n\" xmlns:m=\"urn:n\"></m:a>",
            "XML.end tag at offset 39: is of another element",
        ),
        (
            "end first",
            "</a>",
            "XML.markup at offset 0: is an end tag without its start",
        ),
        ("no name", "< a/>", "XML.element at offset 1: is not a name"),
        (
            "a name like a number",
            "<1/>",
            "XML.element at offset 1: is not a name",
        ),
        (
            "two colons",
            "<a:b:c xmlns:a=\"urn:a\"/>",
            "XML.element at offset 1: is not a name",
        ),
        (
            "no prefix",
            "<:a/>",
            "XML.element at offset 1: the prefix is empty",
        ),
        (
            "no local part",
            "<a: xmlns:a=\"urn:a\"/>",
            "XML.element at offset 1: is not a name",
        ),
        (
            "unknown prefix",
            "<n:a/>",
            "XML.element at offset 0: the prefix is not declared",
        ),
        (
            "unknown prefix of an attribute",
            "<a n:b=\"\"/>",
            "XML.attribute at offset 3: the prefix is not declared",
        ),
        (
            "a sibling's prefix",
            "<a><b xmlns:n=\"urn:n\"/><n:c/></a>",
            "XML.element at offset 23: the prefix is not declared",
        ),
        (
            "no value",
            "<a b/>",
            "XML.attribute at offset 4: has no value",
        ),
        (
            "no quotes",
            "<a b=c/>",
            "XML.attribute at offset 5: the value has no quotes",
        ),
        (
            "no space",
            "<a b=\"\"c=\"\"/>",
            "XML.attribute at offset 7: no space before it",
        ),
        (
            "less in a value",
            "<a b=\"<\"/>",
            "XML.attribute at offset 6: holds <",
        ),
        (
            "twice",
            "<a b=\"\" b=\"\"/>",
            "XML.attribute at offset 8: stands twice",
        ),
        (
            "twice by two prefixes",
            "<a xmlns:n=\"urn:x\" xmlns:m=\"urn:x\" n:b=\"\" m:b=\"\"/>",
            "XML.attribute at offset 42: stands twice",
        ),
        (
            "declared twice",
            "<a xmlns:n=\"urn:x\" xmlns:n=\"urn:y\"/>",
            "XML.namespace at offset 19: is declared twice",
        ),
        (
            "default twice",
            "<a xmlns=\"urn:x\" xmlns=\"urn:x\"/>",
            "XML.namespace at offset 17: is declared twice",
        ),
        (
            "taken back",
            "<a xmlns:n=\"\"/>",
            "XML.namespace at offset 3: a prefix cannot be taken back",
        ),
        (
            "relative",
            "<a xmlns:n=\"../x\"/>",
            "XML.namespace at offset 3: is not an absolute URI",
        ),
        (
            "another xml",
            "<a xmlns:xml=\"urn:x\"/>",
            "XML.namespace at offset 3: xml and its namespace belong together",
        ),
        (
            "xml by another name",
            "<a xmlns:x=\"http://www.w3.org/XML/1998/namespace\"/>",
            "XML.namespace at offset 3: xml and its namespace belong together",
        ),
        (
            "xmlns declared",
            "<a xmlns:xmlns=\"urn:x\"/>",
            "XML.namespace at offset 3: xmlns cannot be declared",
        ),
        (
            "base",
            "<a xml:base=\"http://a/\"/>",
            "XML.attribute at offset 3: is xml:base",
        ),
        (
            "unknown entity",
            "<a>&b;</a>",
            "XML.reference at offset 3: is to nothing that XML has without a DTD",
        ),
        (
            "entity in a value",
            "<a b=\"c&d;\"/>",
            "XML.reference at offset 7: is to nothing that XML has without a DTD",
        ),
        (
            "lone ampersand",
            "<a>& </a>",
            "XML.reference at offset 3: is to nothing that XML has without a DTD",
        ),
        (
            "zero",
            "<a>&#0;</a>",
            "XML.reference at offset 3: is to nothing that XML has without a DTD",
        ),
        (
            "surrogate",
            "<a>&#xd800;</a>",
            "XML.reference at offset 3: is to nothing that XML has without a DTD",
        ),
        (
            "sign",
            "<a>&#+65;</a>",
            "XML.reference at offset 3: is to nothing that XML has without a DTD",
        ),
        (
            "capital X",
            "<a>&#X41;</a>",
            "XML.reference at offset 3: is to nothing that XML has without a DTD",
        ),
        (
            "a control character",
            "<a>\u{1}</a>",
            "XML.document at offset 3: a character that XML has not",
        ),
        (
            "version 1.1",
            "<?xml version=\"1.1\"?><a/>",
            "XML.declaration at offset 19: the version is not 1.0",
        ),
        (
            "Latin-1",
            "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a/>",
            "XML.declaration at offset 41: the encoding is not UTF-8",
        ),
        (
            "declaration behind space",
            " <?xml version=\"1.0\"?><a/>",
            "XML.markup at offset 1: is a processing instruction",
        ),
        (
            "declaration with more",
            "<?xml version=\"1.0\" a=\"\"?><a/>",
            "XML.declaration at offset 20: is not one of XML 1.0",
        ),
    ] {
        assert_eq!(refused(text), want, "{case}");
    }
    let error = Document::parse(b"<a>\xff</a>").unwrap_err();
    assert_eq!(error.to_string(), "XML.document at offset 3: is not UTF-8");
}

#[test]
fn what_an_attacker_can_multiply_has_a_limit() {
    let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
    let wide = |nodes: usize| format!("<a>{}</a>", "<b/>".repeat(nodes - 1));
    let attributes = |count: usize| {
        let all: String = (0..count).map(|n| format!(" a{n}=\"\"")).collect();
        format!("<a{all}/>")
    };
    let scope = |count: usize| {
        let all: String = (0..count)
            .map(|n| format!(" xmlns:n{n}=\"urn:x\""))
            .collect();
        format!("<a{all}/>")
    };
    let long = |bytes: usize| format!("<a>{}</a>", "b".repeat(bytes - 7));
    type Make<'a> = &'a dyn Fn(usize) -> String;
    let rows: [(&str, Make<'_>, usize); 5] = [
        ("depth", &nested, MAX_DEPTH),
        ("nodes", &wide, MAX_NODES),
        ("attributes", &attributes, MAX_ATTRIBUTES),
        ("scope", &scope, MAX_SCOPE),
        ("bytes", &long, MAX_XML),
    ];
    for (case, make, most) in rows {
        assert_eq!(refused(&make(most)), "accepted", "{case}");
        let more = refused(&make(most + 1));
        let said = format!("{} exceeds the limit of {most}", most + 1);
        assert!(more.contains(&said), "{case}: {more}");
    }
    // What was in scope before counts no more.
    let apart = format!("<a>{}</a>", scope(MAX_SCOPE).repeat(3));
    assert_eq!(refused(&apart), "accepted");
}

#[test]
fn the_tree_is_what_was_written() {
    let text =
        "<a xmlns=\"urn:d\" xmlns:n=\"urn:n\"><n:b n:k=\"1\" k=\"2\">t</n:b> <c><d/></c></a>";
    let document = Document::parse(text.as_bytes()).unwrap();
    let root = document.root().unwrap();
    assert!(root.is("urn:d", "a") && !root.is("", "a") && !root.is("urn:n", "a"));
    assert!(root.parent().is_none());
    let children: Vec<Element<'_, '_>> = root.children().collect();
    let [b, c] = children.as_slice() else {
        panic!("two children");
    };
    assert!(b.is("urn:n", "b"));
    assert_eq!(b.attribute("urn:n", "k"), Some("1"));
    assert_eq!(b.attribute("", "k"), Some("2"));
    assert_eq!(
        b.attribute("urn:d", "k"),
        None,
        "the default is not for attributes"
    );
    assert_eq!(b.count_attributes("urn:n"), 1);
    assert_eq!((b.text(), root.text(), c.text()), (Some("t"), None, None));
    assert!(!b.is_empty() && !c.is_empty());
    assert_eq!(root.descendants().count(), 4);
    let d = c.children().next().unwrap();
    assert!(d.is_empty() && d.parent().unwrap().same(c));
    assert_eq!(d.offset(), text.find("<d").unwrap());
}

#[test]
fn what_is_read_is_what_the_references_and_white_space_stand_for() {
    // Written, and what it says as text and in an attribute.
    for (case, written, text, attribute) in [
        ("names", "&lt;&gt;&amp;&quot;&apos;", "<>&\"'", "<>&\"'"),
        ("numbers", "&#65;&#x42;c", "ABc", "ABc"),
        ("line ends", "a\r\nb\rc\nd", "a\nb\nc\nd", "a b c d"),
        ("white space", "a\tb", "a\tb", "a b"),
        (
            "white space that is meant",
            "a&#9;b&#13;",
            "a\tb\r",
            "a\tb\r",
        ),
    ] {
        let document = format!("<a k=\"{written}\">{written}</a>");
        let document = Document::parse(document.as_bytes()).unwrap();
        let root = document.root().unwrap();
        assert_eq!(root.text(), Some(text), "{case}");
        assert_eq!(root.attribute("", "k"), Some(attribute), "{case}");
    }
    assert_eq!(
        refused("<a>xy&z;</a>"),
        "XML.reference at offset 5: is to nothing that XML has without a DTD"
    );
    let named = Document::parse(b"<a xml:lang=\"en\" base=\"x\"/>").unwrap();
    assert_eq!(named.root().unwrap().attribute("", "base"), Some("x"));
}
