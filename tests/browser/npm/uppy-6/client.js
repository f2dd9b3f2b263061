// Uppy 6: its AwsS3 asks `signRequest` where each file goes.
import Uppy from "@uppy/core";
import AwsS3 from "@uppy/aws-s3";

export function createUppy({ requestUpload }) {
  const uppy = new Uppy();
  uppy.use(AwsS3, {
    shouldUseMultipart: false,
    generateObjectKey: (file) => file.id,
    signRequest: async ({ key: fileId }) => {
      const presigned = await requestUpload(uppy.getFile(fileId));
      return { url: presigned.upload_url, headers: presigned.headers };
    },
  });
  return uppy;
}
