//! `croissant.json`: the release in MLCommons' Croissant 1.0, with its vocabulary for responsible AI;
//! `mlcroissant` validates it.

use serde_json::{Value, json};

use super::Release;
use super::files::Checksum;

pub(super) fn croissant(release: &Release<'_>, sums: &[Checksum]) -> String {
    let config = &release.config.release;
    let mut distribution = Vec::new();
    let mut shards = Vec::new();
    for sum in sums {
        let (id, format) = match sum.name.rsplit_once('.') {
            Some((stem, "tar")) => {
                shards.push(json!({ "@id": stem }));
                (stem, "application/x-tar")
            }
            _ if sum.name == "pass_metadata.csv" => ("metadata", "text/csv"),
            _ if sum.name == "metadata.parquet" => ("metadata-parquet", "application/vnd.apache.parquet"),
            _ if sum.name == "CREDITS.txt" => ("credits", "text/plain"),
            _ => continue,
        };
        distribution.push(json!({
            "@type": "cr:FileObject",
            "@id": id,
            "name": id,
            "contentUrl": sum.name,
            "contentSize": format!("{} B", sum.bytes),
            "encodingFormat": format,
            "sha256": sum.sha256,
        }));
    }
    distribution.push(json!({
        "@type": "cr:FileSet",
        "@id": "image-files",
        "name": "image-files",
        "containedIn": shards,
        "encodingFormat": "image/jpeg",
        "includes": ["*.jpg", "*.png", "*.webp", "*.bmp", "*.gif"],
    }));
    let column = |name: &str, column: &str, kind: &str, description: &str| {
        json!({
            "@type": "cr:Field",
            "@id": format!("photos/{name}"),
            "name": name,
            "description": description,
            "dataType": kind,
            "source": { "fileObject": { "@id": "metadata" }, "extract": { "column": column } },
        })
    };
    let mut fields = vec![
        // Joins a file of a shard with its row.
        json!({
            "@type": "cr:Field",
            "@id": "photos/hash",
            "name": "hash",
            "description": "Key of the photo: its name in the shards.",
            "dataType": "sc:Text",
            "source": {
                "fileSet": { "@id": "image-files" },
                "extract": { "fileProperty": "fullpath" },
                "transform": { "regex": "^(.*)\\.[a-z]+$" },
            },
            "references": { "fileObject": { "@id": "metadata" }, "extract": { "column": "hash" } },
        }),
        json!({
            "@type": "cr:Field",
            "@id": "photos/image",
            "name": "image",
            "description": "The photo.",
            "dataType": "sc:ImageObject",
            "source": { "fileSet": { "@id": "image-files" }, "extract": { "fileProperty": "content" } },
        }),
        column(
            "photographer",
            "unickname",
            "sc:Text",
            "Name of the photographer, URL-encoded; for giving credit only.",
        ),
        column(
            "date_taken",
            "datetaken",
            "sc:Text",
            "When it was taken, as the source wrote it.",
        ),
        column("licence", "licensename", "sc:Text", "Name of its license."),
    ];
    if config.coordinates {
        fields.push(column("latitude", "latitude", "sc:Float", "Degrees north."));
        fields.push(column("longitude", "longitude", "sc:Float", "Degrees east."));
    }
    let mut document = json!({
        "@context": context(),
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": name(&config.name),
        "description": config.description,
        "url": config.url,
        "license": config.license_url,
        "version": format!("{}.0.0", release.version),
        "datePublished": release.made.get(..10).unwrap_or_default(),
        "creator": { "@type": "sc:Organization", "name": config.publisher },
        "publisher": { "@type": "sc:Organization", "name": config.publisher },
        "sdVersion": release.fingerprint,
        "distribution": distribution,
        "recordSet": [{
            "@type": "cr:RecordSet",
            "@id": "photos",
            "name": "photos",
            "key": { "@id": "photos/hash" },
            "field": fields,
        }],
        "rai:dataCollection": super::datasheet::datasheet_line(release),
        "rai:personalSensitiveInformation": personal(release),
        "rai:dataReleaseMaintenancePlan": format!("Photos are taken down on request: {}. Each version is immutable; VERSION_HISTORY.md lists them.", config.contact),
    });
    if let (Some(citation), Some(object)) = (&config.citation, document.as_object_mut()) {
        object.insert("citeAs".to_string(), citation.clone().into());
    }
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

/// Names, people, places and metadata within the files, as the data sheet describes them.
fn personal(release: &Release<'_>) -> String {
    let people = super::datasheet::people(release);
    let metadata = super::datasheet::places_and_metadata(release);
    let text = format!("Names of photographers, for giving credit. {people} {metadata}");
    text.replace("**", "").replace('`', "")
}

/// Croissant's names must not contain blanks or other unusual characters.
fn name(name: &str) -> String {
    name.chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() || "_-.".contains(character) {
                character
            } else {
                '-'
            }
        })
        .collect()
}

/// The context that Croissant 1.0 prescribes.
fn context() -> Value {
    let mut context = serde_json::Map::new();
    for (key, value) in [
        ("@language", "en"),
        ("@vocab", "https://schema.org/"),
        ("cr", "http://mlcommons.org/croissant/"),
        ("rai", "http://mlcommons.org/croissant/RAI/"),
        ("dct", "http://purl.org/dc/terms/"),
        ("sc", "https://schema.org/"),
        ("conformsTo", "dct:conformsTo"),
    ] {
        context.insert(key.to_string(), value.into());
    }
    for term in [
        "citeAs",
        "column",
        "equivalentProperty",
        "samplingRate",
        "extract",
        "field",
        "fileProperty",
        "fileObject",
        "fileSet",
        "format",
        "includes",
        "isLiveDataset",
        "jsonPath",
        "key",
        "md5",
        "parentField",
        "path",
        "recordSet",
        "references",
        "regex",
        "repeated",
        "replace",
        "separator",
        "source",
        "subField",
        "transform",
    ] {
        context.insert(term.to_string(), format!("cr:{term}").into());
    }
    context.insert("data".to_string(), json!({ "@id": "cr:data", "@type": "@json" }));
    context.insert(
        "dataType".to_string(),
        json!({ "@id": "cr:dataType", "@type": "@vocab" }),
    );
    context.insert(
        "examples".to_string(),
        json!({ "@id": "cr:examples", "@type": "@json" }),
    );
    Value::Object(context)
}
