//! Codes HNS-2000-2099: manifests of the folder source.

use super::Code;

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal, $cause:literal, $next:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code::new($number, $title, $cause, $next);)*
        /// The codes of this part.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    YAML_INVALID = 2001, "manifest cannot be read", "the file is not valid YAML or not a known kind", "mend the file; the last good version of its objects stays in force";
    YAML_TOO_LARGE = 2002, "manifest file is too large", "a file of more than 4 MiB or too many nodes", "split the file";
    OBJECT_INVALID = 2003, "object refused", "a field has a value that cannot be used", "mend the object named";
    OBJECT_DUPLICATE = 2004, "object defined twice", "two files define the same kind, namespace and name", "remove one; the first file in name order counts";
    FOLDER_GONE = 2005, "manifest folder is gone", "the folder was deleted or cannot be read; what was known stays in force", "restore the folder";
    KIND_UNSUPPORTED = 2006, "kind not supported yet", "this version has no such object", "hansa version; see the changelog";
}
